//! Generates the schema types from `schema/` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 8] =
        ["addresses", "calls", "cards", "content", "errors", "events", "hello", "services"];
    let paths: Vec<String> = FILES.iter().map(|f| format!("schema/ahoy/v1/{f}.proto")).collect();
    for path in &paths {
        println!("cargo:rerun-if-changed={path}");
    }
    let descriptors = protox::compile(&paths, ["schema"])?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}

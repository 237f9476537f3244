//! Writes `spec/vectors/*.json`: `cargo run -p ahoy-proto --example vectors`.

#[path = "build/all.rs"]
mod build;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors");
    for (file, content) in build::all() {
        let text = serde_json::to_string_pretty(&content)?;
        std::fs::write(folder.join(file), text + "\n")?;
        println!("{file}");
    }
    Ok(())
}

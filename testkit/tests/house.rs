//! Holds the layering of the workspace and the rules that a grep can hold (ARCHITECTURE.md, CONTRIBUTING.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// What each crate may depend on inside the workspace, outside of tests.
const LAYERS: [(&str, &[&str]); 9] = [
    ("ahoy-proto", &[]),
    ("ahoy-transport", &["ahoy-proto"]),
    ("ahoy-resolver", &["ahoy-proto"]),
    ("ahoyd", &["ahoy-proto", "ahoy-transport", "ahoy-resolver"]),
    ("ahoy-client", &["ahoy-proto", "ahoy-transport", "ahoy-resolver"]),
    ("ahoy-bridge", &["ahoy-proto", "ahoy-client", "ahoy-transport", "ahoy-resolver"]),
    ("ahoy-testkit", &["ahoy-proto"]),
    ("ahoy-demo", &["ahoy-proto", "ahoy-client", "ahoy-testkit"]),
    ("ahoy-conform", &["ahoy-proto", "ahoy-testkit"]),
];

/// Crates from outside that only these of ours may name.
const RESERVED: [(&str, &[&str]); 5] = [
    ("quinn", &["ahoy-transport", "ahoy-conform"]),
    ("hickory-resolver", &["ahoy-resolver"]),
    ("hickory-server", &["ahoy-testkit"]),
    ("fjall", &["ahoyd"]),
    ("webrtc", &["ahoy-client"]),
];

struct Package {
    dependencies: BTreeSet<String>,
    raw: Vec<serde_json::Value>,
    folder: PathBuf,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds this crate").to_owned()
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let list = metadata["packages"].as_array().expect("packages");
    list.iter().map(|p| (p["name"].as_str().expect("name").to_owned(), package(p))).collect()
}

fn package(value: &serde_json::Value) -> Package {
    let raw: Vec<serde_json::Value> = value["dependencies"].as_array().expect("dependencies").clone();
    let dependencies = raw
        .iter()
        .filter(|d| d["kind"].as_str() != Some("dev"))
        .map(|d| d["name"].as_str().expect("name").to_owned())
        .collect();
    let manifest = Path::new(value["manifest_path"].as_str().expect("path"));
    Package { dependencies, raw, folder: manifest.parent().expect("a folder").to_owned() }
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn dependencies_point_down_never_up_or_sideways() {
    let packages = packages();
    let ours: BTreeSet<&String> = packages.keys().collect();
    for (name, package) in &packages {
        let (_, allowed) =
            LAYERS.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} has no layer"));
        for dependency in package.dependencies.iter().filter(|d| ours.contains(d)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    assert_eq!(packages.len(), LAYERS.len(), "a layer names a crate that is gone");
}

#[test]
fn only_their_owners_name_the_engines() {
    for (name, package) in packages() {
        for (engine, owners) in RESERVED {
            let named = package.dependencies.contains(engine);
            assert!(!named || owners.contains(&name.as_str()), "{name} must not name {engine}");
        }
    }
}

#[test]
fn the_database_is_named_in_the_store_alone() {
    for path in sources(&root().join("server/src")) {
        let text = std::fs::read_to_string(&path).expect("source");
        let in_store = path.components().any(|c| c.as_os_str().to_string_lossy().starts_with("store"));
        assert!(in_store || !text.contains("fjall::"), "{} names the database", path.display());
    }
}

#[test]
fn the_bridge_takes_the_client_without_its_media() {
    let packages = packages();
    let client = packages["ahoy-bridge"]
        .raw
        .iter()
        .find(|d| d["name"] == "ahoy-client" && d["kind"].as_str() != Some("dev"))
        .expect("the bridge uses the client");
    assert_eq!(client["uses_default_features"], serde_json::Value::Bool(false));
    assert_eq!(client["features"], serde_json::json!([]));
}

#[test]
fn proto_has_no_runtime() {
    let packages = packages();
    for name in ["tokio", "quinn", "hickory-resolver", "socket2", "mio"] {
        assert!(!packages["ahoy-proto"].dependencies.contains(name), "proto must not name {name}");
    }
}

#[test]
fn every_source_file_opens_with_what_it_decides_and_none_has_a_catch_all_name() {
    for (name, package) in packages() {
        for path in sources(&package.folder.join("src")) {
            let text = std::fs::read_to_string(&path).expect("source");
            assert!(text.starts_with("//!"), "{} does not open with `//!`", path.display());
            let stem = path.file_stem().expect("stem").to_string_lossy().into_owned();
            assert!(
                !["common", "core", "util", "utils", "helpers", "mod"].contains(&stem.as_str()),
                "{name}: {} is a catch-all name",
                path.display()
            );
        }
    }
}

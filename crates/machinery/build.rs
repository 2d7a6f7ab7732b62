//! Collects the descriptions of types and fields from the k8s-openapi crate's sources into one compressed
//! file in `OUT_DIR`, for OpenAPI and `kubectl explain`. They are prose and are not committed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    let mut text = String::new();
    if let Some(root) = source_root() {
        visit(&root.join("src/v1_36"), &mut text);
    } else {
        println!(
            "cargo:warning=the sources of k8s-openapi were not found; `explain` will have no descriptions"
        );
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.z");
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text.as_bytes()).expect("writing to memory");
    std::fs::write(out, encoder.finish().expect("writing to memory")).expect("OUT_DIR is writable");
}

/// Where cargo keeps the crate's sources: the registry cache, or what `cargo metadata` says.
fn source_root() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    let cached = registries.map(|registry| registry.path().join(format!("k8s-openapi-{VERSION}")));
    cached.into_iter().find(|path| path.is_dir()).or_else(source_root_by_metadata)
}

/// The version that the workspace locks.
const VERSION: &str = "0.29.0";

fn source_root_by_metadata() -> Option<PathBuf> {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO")?);
    let output =
        command.args(["metadata", "--format-version=1", "--manifest-path"]).arg(manifest).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let at = text.find(&format!("/k8s-openapi-{VERSION}/Cargo.toml"))?;
    let start = text[..at].rfind('"')? + 1;
    let length = text[at + 1..].find('/')? + 1;
    Some(PathBuf::from(&text[start..at + length]))
}

fn visit(path: &Path, out: &mut String) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            visit(&path, out);
        } else if let Ok(source) = std::fs::read_to_string(&path) {
            one_file(&source, out);
        }
    }
}

/// A type becomes `\x1e` name `\x1f` text, each of its fields `\x1d` JSON name `\x1f` text.
fn one_file(source: &str, out: &mut String) {
    let Some(name) = source.lines().find_map(|line| line.strip_prefix("// Generated from definition "))
    else {
        return;
    };
    let keys = json_names(source);
    let mut docs: Vec<&str> = Vec::new();
    let mut named = false;
    for line in source.lines() {
        let trimmed = line.trim_start();
        if let Some(doc) = trimmed.strip_prefix("///") {
            docs.push(doc.strip_prefix(' ').unwrap_or(doc));
        } else if !named && (trimmed.starts_with("pub struct ") || trimmed.starts_with("pub enum ")) {
            out.push_str(&format!("\x1e{name}\x1f{}", docs.join("\n")));
            docs.clear();
            named = true;
        } else if let Some(field) = trimmed.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            if let Some(json) = keys.get(field.0.trim_start_matches("r#")) {
                out.push_str(&format!("\x1d{json}\x1f{}", docs.join("\n")));
            }
            docs.clear();
        } else if line == "}" {
            return;
        } else if !trimmed.starts_with("#[") {
            docs.clear();
        }
    }
}

/// Rust field name to JSON name, from the deserializer: `"minReadySeconds" => Field::Key_min_ready_seconds,`.
fn json_names(source: &str) -> BTreeMap<&str, &str> {
    let arms = source.lines().filter_map(|line| line.trim().split_once(" => Field::Key_"));
    arms.map(|(json, field)| (field.trim_end_matches(','), json.trim_matches('"'))).collect()
}

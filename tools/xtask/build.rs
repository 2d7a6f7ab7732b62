//! Hands the host's name to the tasks that build for it by name.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=HOST={}", std::env::var("HOST").unwrap_or_default());
}

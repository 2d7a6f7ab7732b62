//! The rules of the code that a compiler does not check: headers, function length, banned calls, crate
//! arrows, dead files, links of documents. `cargo test -p xtask` holds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::spanned::Spanned as _;
use syn::visit::Visit;

/// The longest function, lines.
const MAX_FUNCTION_LINES: usize = 70;

/// A call that has one home, and what to use elsewhere.
const BANNED: &[(&str, &str, &str)] = &[
    ("SystemTime::now(", "base::Clock::now", "crates/base/"),
    ("std::time::Instant::now(", "base::Clock::monotonic", "crates/base/"),
    ("Timestamp::now(", "base::Clock::now", "crates/base/"),
    ("Uuid::new_v4(", "base::Rng::uuid", "crates/base/"),
    ("rand::rng(", "base::Rng", "crates/base/"),
    ("tokio::spawn(", "base::Tasks::spawn", "crates/base/"),
];

/// Crate, and the crates of ours it may use (beside `base`).
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &[]),
    ("machinery", &["api"]),
    ("store", &[]),
    ("registry", &["api", "machinery"]),
    ("apiserver", &["api", "machinery", "registry", "store"]),
    ("client", &["api", "machinery"]),
    ("controllers", &["api", "machinery", "client"]),
    ("scheduler", &["api", "machinery", "client"]),
    ("runtime", &["api"]),
    ("kubelet", &["api", "machinery", "client", "runtime"]),
    ("network", &["api", "machinery", "client"]),
    ("kubectl", &["api", "machinery", "client"]),
    ("dashboard", &["api", "machinery", "client"]),
    ("sim", &["api", "machinery", "client"]),
    // The simulation joins everything; nothing may use it.
    ("seeds", &["api", "client", "store", "apiserver", "controllers", "scheduler"]),
    ("soak", &["client"]),
    ("xtask", &["machinery"]),
];

/// Every broken rule, one line each: `path:line: what`.
pub fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let sources = tracked(root, ".rs");
    for path in &sources {
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        check_source(path, &text, &mut problems);
    }
    check_dead_files(root, &sources, &mut problems);
    check_links(root, &mut problems);
    check_arrows(root, &mut problems);
    problems.sort();
    problems
}

/// Files of the repository with this ending, tracked or about to be.
fn tracked(root: &Path, ending: &str) -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git lists the files");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|path| path.ends_with(ending) && root.join(path).exists())
        .map(str::to_owned)
        .collect()
}

fn check_source(path: &str, text: &str, problems: &mut Vec<String>) {
    if !text.starts_with("//!") && !text.starts_with("#![") {
        problems.push(format!("{path}:1: begin with `//!`: what the file is, and what it must not know"));
    }
    let production = text.split("#[cfg(test)]").next().unwrap_or(text);
    let is_test = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/examples/")
        || path.ends_with("tests.rs");
    if !is_test {
        for (index, line) in production.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            for (call, instead, home) in BANNED {
                let exempt = path.starts_with(home) || path.starts_with("tools/");
                if code.contains(call) && !exempt {
                    problems.push(format!("{path}:{}: {call}…) has one home: use {instead}", index + 1));
                }
            }
        }
    }
    match syn::parse_file(text) {
        // Tables of test cases may be long.
        Ok(_) if path.ends_with("tests.rs") => {}
        Ok(file) => FunctionLengths { path, problems }.visit_file(&file),
        Err(error) => problems.push(format!("{path}:1: does not parse: {error}")),
    }
}

struct FunctionLengths<'a> {
    path: &'a str,
    problems: &'a mut Vec<String>,
}

impl FunctionLengths<'_> {
    fn measure(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.span();
        let lines = span.end().line + 1 - span.start().line;
        if lines > MAX_FUNCTION_LINES {
            let line = name.span().start().line;
            let rule = format!("has {lines} lines, the most is {MAX_FUNCTION_LINES}");
            self.problems.push(format!("{}:{line}: function {name} {rule}", self.path));
        }
    }
}

impl<'ast> Visit<'ast> for FunctionLengths<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = module.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|arg| arg == "test")
        });
        if !is_test {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

/// A source file that no `mod` names is dead.
fn check_dead_files(root: &Path, sources: &[String], problems: &mut Vec<String>) {
    for path in sources {
        let Some((dir, file)) = path.rsplit_once("/src/") else { continue };
        let stem = file.trim_end_matches(".rs");
        if ["lib", "main"].contains(&stem) || file.starts_with("bin/") {
            continue;
        }
        let parts: Vec<&str> = stem.trim_end_matches("/mod").split('/').collect();
        let Some((name, parents)) = parts.split_last() else { continue };
        let base = format!("{dir}/src/{}", parents.join("/"));
        let base = base.trim_end_matches('/');
        let homes = if parents.is_empty() {
            vec![format!("{base}/lib.rs"), format!("{base}/main.rs")]
        } else {
            vec![format!("{base}/mod.rs"), format!("{base}.rs")]
        };
        let named = homes
            .iter()
            .filter_map(|home| fs::read_to_string(root.join(home)).ok())
            .any(|text| text.contains(&format!("mod {name};")) || text.contains(&format!("\"{name}.rs\"")));
        if !named {
            problems.push(format!("{path}:1: no module names this file"));
        }
    }
}

/// Relative links in Markdown must lead somewhere.
fn check_links(root: &Path, problems: &mut Vec<String>) {
    for path in tracked(root, ".md") {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        let dir = Path::new(&path).parent().map(PathBuf::from).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                let relative = !file.is_empty() && !file.contains("://");
                if relative && !root.join(&dir).join(file).exists() {
                    problems.push(format!("{path}:{}: link to {file} leads nowhere", index + 1));
                }
            }
        }
    }
}

/// The crates' arrows point as the design says.
fn check_arrows(root: &Path, problems: &mut Vec<String>) {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .expect("cargo reads the workspace");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let ours: BTreeMap<&str, &serde_json::Value> =
        packages.iter().filter_map(|package| Some((package["name"].as_str()?, package))).collect();
    for (name, package) in &ours {
        // The binary and the crate that wires may use everything.
        if ["navarch", "cli"].contains(name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(row, _)| row == name) else {
            problems.push(format!("crates/{name}: not in tidy's table of arrows"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().cloned().unwrap_or_default();
        for dependency in &dependencies {
            let used = dependency["name"].as_str().unwrap_or_default();
            // Tests may use more.
            let development = dependency["kind"].as_str() == Some("dev");
            if ours.contains_key(used) && used != "base" && !allowed.contains(&used) && !development {
                problems.push(format!("crates/{name}: must not use {used}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let problems = check(&root);
        assert!(problems.is_empty(), "{} broken rules:\n{}", problems.len(), problems.join("\n"));
    }

    #[test]
    fn broken_rules_are_found() {
        let mut problems = Vec::new();
        let long = format!("fn long() {{\n{}}}\n", "    let _ = 1;\n".repeat(80));
        let text = format!("use x;\nfn f() {{ tokio::spawn(g()); }}\n{long}");
        check_source("crates/x/src/lib.rs", &text, &mut problems);
        let expect = ["begin with", "base::Tasks::spawn", "has 82 lines"];
        for (problem, expect) in problems.iter().zip(expect) {
            assert!(problem.contains(expect), "{problem}");
        }
        assert_eq!(problems.len(), 3);
    }
}

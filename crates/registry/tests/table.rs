//! Golden tests: the whole Resource table and every printer, as text. NAVARCH_BLESS=1 rewrites them.

use std::fmt::Write;
use std::path::PathBuf;

use registry::{Catalog, Verb, columns};

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("NAVARCH_BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
        return;
    }
    let expect = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expect, "{name} differs; look, then set NAVARCH_BLESS=1");
}

#[test]
fn resources() {
    let catalog = Catalog::builtin();
    let mut text = String::new();
    for group in catalog.groups() {
        for version in &group.versions {
            let _ = writeln!(text, "# {}", api::meta::api_version(&group.name, version));
            for row in catalog.version_rows(&group.name, version) {
                let verbs: Vec<&str> = row.verbs.iter().map(registry::Verb::as_str).collect();
                let _ = writeln!(
                    text,
                    "{} {} {} {} [{}] [{}] {} | {}",
                    row.plural,
                    row.kind,
                    row.singular,
                    if row.namespaced { "namespaced" } else { "cluster" },
                    row.short_names.join(","),
                    row.categories.join(","),
                    verbs.join(","),
                    row.storage.as_deref().unwrap_or("-"),
                );
                let fields: Vec<&str> = row.selectable.iter().map(|f| f.label.as_str()).collect();
                if !fields.is_empty() {
                    let _ = writeln!(text, "  fields {}", fields.join(" "));
                }
                for sub in &row.subresources {
                    let verbs: Vec<&str> = sub.verbs.iter().map(registry::Verb::as_str).collect();
                    let of = api::meta::api_version(&sub.group, &sub.version);
                    let _ = writeln!(text, "  /{} {of} {} {}", sub.name, sub.kind, verbs.join(","));
                }
            }
        }
    }
    golden("resources.txt", &text);
}

#[test]
fn printers() {
    let mut text = String::new();
    for (name, set) in columns::builtin::ALL {
        let all: Vec<String> = set
            .columns
            .iter()
            .map(|c| format!("{}{}", c.name, if c.priority > 0 { "*" } else { "" }))
            .collect();
        let _ = writeln!(text, "{name}: {}", all.join(" | "));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cells = (set.cells)(&serde_json::json!({}), now);
        assert_eq!(cells.len(), set.columns.len(), "{name}");
    }
    golden("printers.txt", &text);
}

#[test]
fn every_row_has_facts() {
    let catalog = Catalog::builtin();
    // The metrics API is another project's; its kinds are made here and never read.
    for row in catalog.rows().iter().filter(|row| row.group != "metrics.k8s.io") {
        // Reviews and bindings are written, never listed.
        let listed = row.verbs.has(Verb::List).then_some(row.list_kind.as_str());
        for kind in std::iter::once(row.kind.as_str()).chain(listed) {
            let known = machinery::schema::facts().by_gvk(&row.group, &row.version, kind);
            let facts = known.unwrap_or_else(|| panic!("{kind} of {}: no facts", row.api_version()));
            assert!(facts.is_object(), "{kind}");
        }
    }
}

//! Remote group versions in the discovery documents: groups merged by priority, resources as the other server
//! lists them.

use registry::Group;
use registry::tree::Tree;
use serde_json::{Value, json};

use super::{Remote, Remotes};

/// Groups in order of priority: those served here keep their order, remote ones go where their priority puts
/// them.
pub fn merged(local: Vec<Group>, priority: impl Fn(&str) -> i64, remotes: &Remotes) -> Vec<Group> {
    let mut groups = local;
    for remote in remotes.values() {
        if let Some(group) = groups.iter_mut().find(|group| group.name == remote.group) {
            if !group.versions.contains(&remote.version) {
                let own = remote.priorities.1;
                let before = |version: &String| {
                    let key = (group.name.clone(), version.clone());
                    remotes.get(&key).is_some_and(|other| other.priorities.1 < own)
                };
                let at = group.versions.iter().position(before).unwrap_or(group.versions.len());
                group.versions.insert(at, remote.version.clone());
            }
            continue;
        }
        let first = |g: &Group| {
            let theirs = remotes.values().filter(|r| r.group == g.name).map(|r| r.priorities.0).max();
            (-theirs.unwrap_or_else(|| priority(&g.name)), g.name.clone())
        };
        let group = Group { name: remote.group.clone(), versions: vec![remote.version.clone()] };
        let own = first(&group);
        let at = groups.iter().position(|other| first(other) > own).unwrap_or(groups.len());
        groups.insert(at, group);
    }
    groups
}

/// A remote version in aggregated discovery.
pub fn version(remote: &Remote) -> Value {
    let none = Value::Null;
    let listed = remote.resources.as_ref().unwrap_or(&none).list("resources");
    let mut resources: Vec<Value> = listed
        .iter()
        .filter(|r| !r.text("name").contains('/'))
        .map(|r| resource(remote, r, listed))
        .collect();
    resources.sort_by(|a, b| a.text("resource").cmp(b.text("resource")));
    let freshness = if remote.available { "Current" } else { "Stale" };
    json!({"version": remote.version, "freshness": freshness, "resources": resources})
}

fn kind_of(remote: &Remote, entry: &Value) -> Value {
    let or = |text: &str, own: &str| if text.is_empty() { own.to_owned() } else { text.to_owned() };
    json!({"group": or(entry.text("group"), &remote.group), "version": or(entry.text("version"), &remote.version),
        "kind": entry.text("kind")})
}

fn resource(remote: &Remote, entry: &Value, all: &[Value]) -> Value {
    let name = entry.text("name");
    let mut out = json!({"resource": name, "responseKind": kind_of(remote, entry),
        "scope": if entry.flag("namespaced") { "Namespaced" } else { "Cluster" },
        "singularResource": entry.text("singularName"), "verbs": entry.at("verbs")});
    for key in ["shortNames", "categories"] {
        if entry.has(key) {
            out[key] = entry.at(key).clone();
        }
    }
    let subs: Vec<Value> = all
        .iter()
        .filter_map(|sub| {
            let own = sub.text("name").strip_prefix(name)?.strip_prefix('/')?;
            Some(json!({"subresource": own, "responseKind": kind_of(remote, sub), "verbs": sub.at("verbs")}))
        })
        .collect();
    if !subs.is_empty() {
        out["subresources"] = subs.into();
    }
    out
}

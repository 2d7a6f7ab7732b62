//! Upstream's bootstrap roles and bindings, from a table of facts, as objects.

use serde_json::{Value, json};

use super::rbac::Rule;

const TABLE: &str = include_str!("bootstrap.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// Every bootstrap object, ready to be created: cluster roles, roles, bindings.
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "clusterrole" => objects.push(cluster_role(rest)),
            "role" => objects.push(role(rest)),
            "bind" => objects.push(binding(rest)),
            _ => add_rule(objects.last_mut().expect("a rule follows its role"), word, rest),
        }
    }
    fill_aggregates(&mut objects);
    objects
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn cluster_role(rest: &str) -> Value {
    let mut words = rest.split(' ');
    let mut object = object("ClusterRole", "", words.next().unwrap_or(""));
    for (key, value) in words.filter_map(|label| label.split_once('=')) {
        object["metadata"]["labels"][key] = value.into();
    }
    object["rules"] = json!([]);
    object
}

fn role(rest: &str) -> Value {
    let (namespace, name) = rest.split_once(' ').unwrap_or(("", rest));
    let mut object = object("Role", namespace, name);
    object["rules"] = json!([]);
    object
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|t| !t.is_empty()).map(|t| if t == "core" { "" } else { t }.to_owned()).collect()
}

fn add_rule(object: &mut Value, word: &str, rest: &str) {
    let mut words = rest.split(' ');
    let mut next = || words.next().unwrap_or("");
    let rule = match word {
        "aggregate" => {
            let selector = json!({"matchLabels": {rest: "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
            return;
        }
        "url" => Rule { verbs: list(next()), urls: list(next()), ..Rule::default() },
        _ => Rule {
            verbs: list(next()),
            api_groups: list(next()),
            resources: list(next()),
            resource_names: list(next()),
            ..Rule::default()
        },
    };
    object["rules"].as_array_mut().expect("roles have rules").push(rule.to_value());
}

fn binding(rest: &str) -> Value {
    let (names, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
    let (target, subjects) = target.split_once(" :").unwrap_or((target, ""));
    let (kind, role) = target.split_once('/').unwrap_or(("ClusterRole", target));
    let (namespace, name) = names.split_once(' ').unwrap_or(("", names));
    let binding = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut object = object(binding, namespace, name);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    let subjects: Vec<Value> = subjects.split_whitespace().map(subject).collect();
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    object
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or(("user", text));
    match kind {
        "sa" => {
            let (namespace, name) = name.split_once('/').unwrap_or(("", name));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
    }
}

/// admin, edit and view hold the union of what they aggregate, as upstream's controller would write it.
fn fill_aggregates(objects: &mut [Value]) {
    // An aggregate may itself be part of another: in order of their nesting view, edit, admin.
    for _ in 0..3 {
        let before = objects.to_vec();
        for object in objects.iter_mut().filter(|o| !o["aggregationRule"].is_null()) {
            let selector = &object["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
            let label = selector.as_object().and_then(|m| m.keys().next()).cloned().unwrap_or_default();
            let own = object["metadata"]["name"].clone();
            let mut parts: Vec<&Value> = before
                .iter()
                .filter(|o| o["metadata"]["labels"][&label] == "true" && o["metadata"]["name"] != own)
                .collect();
            parts.sort_by_key(|o| o["metadata"]["name"].as_str().unwrap_or("").to_owned());
            let mut rules: Vec<Value> = Vec::new();
            for rule in parts.iter().flat_map(|o| o["rules"].as_array().into_iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            object["rules"] = json!(rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_as_upstream() {
        let objects = objects();
        let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
        let counts = [count("ClusterRole"), count("ClusterRoleBinding"), count("Role"), count("RoleBinding")];
        let named = |kind: &str, name: &str| {
            objects
                .iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
                .expect("present")
                .clone()
        };
        assert!(counts[0] > 60 && counts[1] > 45 && counts[2] == 7 && counts[3] == 7, "{counts:?}");
        assert_eq!(named("ClusterRole", "cluster-admin")["rules"].as_array().map(Vec::len), Some(2));
        assert!(named("ClusterRole", "admin")["rules"].as_array().is_some_and(|rules| rules.len() > 20));
        let basic = named("ClusterRoleBinding", "system:basic-user");
        assert_eq!(basic["subjects"][0]["name"], "system:authenticated");
        assert_eq!(
            named("RoleBinding", "system:controller:cloud-provider")["metadata"]["namespace"],
            "kube-system"
        );
    }
}

//! Bootstrap roles and bindings that somebody changed get back what they lack, as upstream does at each start:
//! nothing is taken from them, and those marked so are left alone.

use registry::tree::Tree;
use serde_json::Value;

use super::rbac::{Rule, uncovered};

const AUTO: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What is to be done with an object that exists.
#[derive(Debug, PartialEq)]
pub enum Repair {
    /// Nothing.
    Keep,
    /// It is to look so.
    Update(Value),
    /// It cannot be changed into what it must be: it has to be made anew.
    Replace,
}

/// Compares an object with what it must at least be.
pub fn repair(wanted: &Value, found: &Value) -> Repair {
    if found.at("metadata.annotations").get(AUTO).is_some_and(|auto| auto == "false") {
        return Repair::Keep;
    }
    if wanted.has("roleRef") && wanted.at("roleRef") != found.at("roleRef") {
        return Repair::Replace;
    }
    let mut out = found.clone();
    for field in ["metadata.labels", "metadata.annotations"] {
        for (key, value) in wanted.map(field) {
            if found.at(field).get(key).is_none() {
                let mut map = out.map(field).clone();
                map.insert(key.clone(), value.clone());
                out.set(field, Value::Object(map));
            }
        }
    }
    lacking(wanted, found, "subjects", &mut out);
    if wanted.has("aggregationRule") {
        // The rules of such a role are gathered by a controller.
        lacking(wanted, found, "aggregationRule.clusterRoleSelectors", &mut out);
    } else if wanted.has("rules") {
        let rules = |tree: &Value| -> Vec<Rule> {
            tree.list("rules").iter().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
        };
        let missing = uncovered(&rules(found), &rules(wanted));
        if !missing.is_empty() {
            let mut all = found.list("rules").to_vec();
            all.extend(missing.iter().map(Rule::to_value));
            out.set("rules", all);
        }
    }
    if out == *found { Repair::Keep } else { Repair::Update(out) }
}

/// Adds to a list what is not in it.
fn lacking(wanted: &Value, found: &Value, field: &str, out: &mut Value) {
    let mut all = found.list(field).to_vec();
    let missing: Vec<Value> = wanted.list(field).iter().filter(|item| !all.contains(item)).cloned().collect();
    if !missing.is_empty() {
        all.extend(missing);
        out.set(field, all);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_lacks_is_added_and_nothing_taken() {
        let rule = |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]});
        let role =
            |rules: Value| json!({"metadata": {"name": "r", "annotations": {AUTO: "true"}}, "rules": rules});
        let wanted = role(json!([rule(&["get", "list"])]));
        assert_eq!(repair(&wanted, &wanted), Repair::Keep);
        assert_eq!(repair(&wanted, &role(json!([rule(&["*"])]))), Repair::Keep, "covered by more");
        let Repair::Update(out) = repair(&wanted, &role(json!([rule(&["get", "watch"])]))) else {
            panic!("lacks list")
        };
        assert_eq!(out["rules"], json!([rule(&["get", "watch"]), rule(&["list"])]));
        let mut left = role(json!([]));
        left["metadata"]["annotations"][AUTO] = "false".into();
        assert_eq!(repair(&wanted, &left), Repair::Keep);
        let bind = |role: &str, subjects: Value| json!({"metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": subjects});
        assert_eq!(repair(&bind("a", json!([])), &bind("b", json!([]))), Repair::Replace);
        let Repair::Update(out) =
            repair(&bind("a", json!([{"name": "x"}])), &bind("a", json!([{"name": "y"}])))
        else {
            panic!("lacks a subject")
        };
        assert_eq!(out["subjects"], json!([{"name": "y"}, {"name": "x"}]));
    }
}

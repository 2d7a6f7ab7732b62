//! Which nodes a selector admits: the one reading of `NodeSelector`, for pods' affinity, volumes and devices.

use std::collections::BTreeMap;

use crate::k8s::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let listed = |value: &str| values.iter().any(|one| one == value);
    let compare = |order: fn(i64, i64) -> bool| {
        let own = value.and_then(|text| text.parse::<i64>().ok());
        let bound = values.first().and_then(|text| text.parse::<i64>().ok());
        own.zip(bound).is_some_and(|(own, bound)| order(own, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|own, bound| own > bound),
        "Lt" => compare(|own, bound| own < bound),
        _ => false,
    }
}

/// True when a node of this name and these labels satisfies the term; an empty term selects nothing.
pub fn term_admits(term: &NodeSelectorTerm, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    let (on_labels, on_fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (on_labels, on_fields) = (on_labels.unwrap_or(&[]), on_fields.unwrap_or(&[]));
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(name);
    !(on_labels.is_empty() && on_fields.is_empty())
        && on_labels.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && on_fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

/// True when any term admits the node.
pub fn admits(selector: &NodeSelector, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.node_selector_terms.iter().any(|term| term_admits(term, name, labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn terms_are_alternatives_of_conjunctions() {
        let labels = BTreeMap::from([("x".to_owned(), "1".to_owned())]);
        let check = |terms: Value| {
            let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).expect("a selector");
            admits(&selector, "a", Some(&labels))
        };
        assert!(check(json!([{"matchExpressions": [{"key": "x", "operator": "Gt", "values": ["0"]}]}])));
        assert!(!check(json!([{"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["1"]}]}])));
        assert!(check(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])
        ));
        assert!(!check(json!([{}])));
    }
}

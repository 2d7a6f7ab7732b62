//! Which nodes a pod may be on by its node selector and required node affinity.

use api::k8s::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use client::Meta;

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

fn term_holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (labels, fields) = (labels.unwrap_or(&[]), fields.unwrap_or(&[]));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    labels.iter().all(|requirement| holds(requirement, node.label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

/// True when any term holds.
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_holds(term, node))
}

/// True when the pod's node selector and required node affinity admit the node.
pub fn admits(spec: &PodSpec, node: &Node) -> bool {
    let labels = spec.node_selector.iter().flatten();
    if !labels.into_iter().all(|(key, value)| node.label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selects(selector, node))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn terms_are_alternatives_of_conjunctions() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"x": "1"}}})).expect("a node");
        let check = |terms: Value| {
            let affinity = json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            }});
            let spec =
                serde_json::from_value(json!({"containers": [], "affinity": affinity})).expect("a spec");
            admits(&spec, &node)
        };
        assert!(check(json!([{"matchExpressions": [{"key": "x", "operator": "Gt", "values": ["0"]}]}])));
        assert!(!check(json!([{"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["1"]}]}])));
        assert!(check(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])
        ));
        assert!(!check(json!([{}])));
    }
}

//! Which nodes a pod may be on by its node selector and required node affinity.

use api::k8s::api::core::v1::{Node, PodSpec};
use api::nodes;
use client::Meta;

/// True when the pod's node selector and required node affinity admit the node.
pub fn admits(spec: &PodSpec, node: &Node) -> bool {
    let labels = spec.node_selector.iter().flatten();
    if !labels.into_iter().all(|(key, value)| node.label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| nodes::admits(selector, node.name(), node.metadata.labels.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selector_and_affinity_must_both_hold() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"x": "1"}}})).expect("a node");
        let check = |selected: &str, operator: &str| {
            let term = json!({"matchExpressions": [{"key": "x", "operator": operator, "values": ["1"]}]});
            let required = json!({"nodeSelectorTerms": [term]});
            let affinity =
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
            let spec = json!({"containers": [], "nodeSelector": {"x": selected}, "affinity": affinity});
            admits(&serde_json::from_value(spec).expect("a spec"), &node)
        };
        assert!(check("1", "In"));
        assert!(!check("2", "In") && !check("1", "NotIn"));
    }
}

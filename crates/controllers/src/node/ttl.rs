//! How long agents may keep Secrets and ConfigMaps before asking again, by the number of nodes.

use api::k8s::api::core::v1::Node;
use client::{Meta, Plan};
use serde_json::json;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Least and most nodes for a number of seconds; sizes overlap so that a node more or less changes nothing.
const STEPS: &[(usize, usize, &str)] =
    &[(0, 100, "0"), (90, 500, "15"), (450, 1_000, "30"), (900, 2_000, "60"), (1_800, usize::MAX, "300")];

/// Annotates a node of so many.
pub fn plan(node: &Node, count: usize) -> Plan {
    let mut plan = Plan::none();
    let now = node.annotation(ANNOTATION).unwrap_or("");
    let fits = |(least, most, _): &&(usize, usize, &str)| (*least..=*most).contains(&count);
    if STEPS.iter().filter(fits).any(|(.., seconds)| *seconds == now) {
        return plan;
    }
    if let Some((.., seconds)) = STEPS.iter().find(fits) {
        plan.merge(node, json!({"metadata": {"annotations": {ANNOTATION: seconds}}}));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_nodes_decides_with_some_slack() {
        for (now, count, changes) in [
            ("", 1, true),
            ("0", 1, false),
            ("0", 100, false),
            ("0", 101, true),
            ("15", 95, false),
            ("15", 89, true),
        ] {
            let metadata = json!({"name": "n", "annotations": {ANNOTATION: now}});
            let node: Node = serde_json::from_value(json!({"metadata": metadata})).expect("a node");
            assert_eq!(!plan(&node, count).is_empty(), changes, "{now} with {count} nodes");
        }
    }
}

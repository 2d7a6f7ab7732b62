//! Whether a daemon's pod should be on a node.

use api::k8s::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint,
    Toleration,
};
use client::Meta;

use crate::affinity;
use crate::node::{NOT_READY, UNREACHABLE, tolerates};

/// Taints a daemon's pod always tolerates: key and effect.
const TOLERATED: &[(&str, &str)] = &[
    (NOT_READY, "NoExecute"),
    (UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Adds the tolerations every daemon's pod has.
pub fn add_tolerations(spec: &mut PodSpec) {
    let mut wanted = TOLERATED.to_vec();
    if spec.host_network == Some(true) {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let list = spec.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let new = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !list.contains(&new) {
            list.push(new);
        }
    }
}

/// Binds the pod to a node by affinity, so that the scheduler places it there.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required = node_affinity.required_during_scheduling_ignored_during_execution.take();
    let mut terms = required.map(|selector| selector.node_selector_terms).unwrap_or_default();
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in &mut terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: terms });
}

/// The node a daemon's pod without a node is meant for.
pub fn pinned_to(spec: &PodSpec) -> Option<&str> {
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let field = field.into_iter().find(|field| field.key == "metadata.name" && field.operator == "In")?;
    field.values.as_ref()?.first().map(String::as_str)
}

/// Whether a pod should be started on the node, and whether one there may stay.
pub fn decide(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| name != node.name()) || !affinity::admits(spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let bad = |taint: &&Taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint));
    let effects: Vec<&str> = taints.iter().filter(bad).map(|taint| taint.effect.as_str()).collect();
    let run = !effects.iter().any(|effect| matches!(*effect, "NoSchedule" | "NoExecute"));
    (run, !effects.contains(&"NoExecute"))
}

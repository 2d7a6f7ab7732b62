//! Plugins that look at the node object: name, cordon, taints, labels, ports, images.

use std::collections::BTreeSet;

use api::k8s::api::core::v1::{NodeSelectorTerm, Taint, Toleration};
use api::nodes;

use super::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{HostPort, PodInfo};
use crate::snapshot::NodeInfo;

/// Cordoned nodes.
pub const UNSCHEDULABLE: &str = "NodeUnschedulable";
/// `spec.nodeName`.
pub const NAME: &str = "NodeName";
/// Taints.
pub const TAINTS: &str = "TaintToleration";
/// Node selector and node affinity.
pub const AFFINITY: &str = "NodeAffinity";
/// Host ports.
pub const PORTS: &str = "NodePorts";
/// Images already present.
pub const IMAGES: &str = "ImageLocality";

/// The taint of a cordoned node.
const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Below this size an image counts nothing, bytes.
const IMAGE_MIN: i64 = 23 * 1024 * 1024;
/// Above this size a container a node gets the full score, bytes.
const IMAGE_MAX: i64 = 1000 * 1024 * 1024;

/// True when the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(value: &Option<String>) -> &str {
        value.as_deref().unwrap_or_default()
    }
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (own, value) = (text(&toleration.value), text(&taint.value));
    let compare = |holds: fn(i64, i64) -> bool| {
        let numbers = value.parse::<i64>().ok().zip(own.parse::<i64>().ok());
        numbers.is_some_and(|(taint, bound)| holds(taint, bound))
    };
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => own == value,
        "Exists" => true,
        "Gt" => compare(|taint, bound| taint > bound),
        "Lt" => compare(|taint, bound| taint < bound),
        _ => false,
    }
}

/// True when the pod tolerates all taints that keep pods off.
pub fn tolerates_node(pod: &PodInfo, node: &NodeInfo) -> bool {
    let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints().iter().filter(hard).all(|taint| pod.tolerations().iter().any(|t| tolerates(t, taint)))
}

/// True when the node is cordoned and the pod does not tolerate that.
pub fn keeps_off(pod: &PodInfo, node: &NodeInfo) -> bool {
    if !node.is_unschedulable() {
        return false;
    }
    let taint = Taint { key: CORDON_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
    !pod.tolerations().iter().any(|toleration| tolerates(toleration, &taint))
}

/// NodeUnschedulable.
pub fn unschedulable(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let refused = keeps_off(cycle.pod, node);
    refused.then(|| Refusal::unresolvable(UNSCHEDULABLE, "node(s) were unschedulable"))
}

/// NodeName.
pub fn name(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let wanted = cycle.pod.node_name()?;
    let reason = "node(s) didn't match the requested node name";
    (wanted != node.name).then(|| Refusal::unresolvable(NAME, reason))
}

/// TaintToleration.
pub fn taints(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let refused = !tolerates_node(cycle.pod, node);
    refused.then(|| Refusal::unresolvable(TAINTS, "node(s) had untolerated taint(s)"))
}

/// TaintToleration's raw score: `PreferNoSchedule` taints that the pod does not tolerate; fewer are better.
pub fn score_taints(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let unwanted = |taint: &&Taint| {
        let covers = |toleration: &Toleration| {
            matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule"))
                && tolerates(toleration, taint)
        };
        taint.effect == "PreferNoSchedule" && !cycle.pod.tolerations().iter().any(covers)
    };
    i64::try_from(node.taints().iter().filter(unwanted).count()).unwrap_or(i64::MAX)
}

/// True when the node satisfies one term; an empty term selects nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    nodes::term_admits(term, &node.name, node.node.metadata.labels.as_ref())
}

/// True when the node satisfies the pod's node selector and required affinity.
pub fn node_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selected = pod
        .node_selector()
        .is_none_or(|selector| selector.iter().all(|(key, value)| node.label(key) == Some(value.as_str())));
    selected
        && pod
            .node_affinity()
            .is_none_or(|affinity| affinity.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// The nodes a pod's required affinity names, when every term names one.
pub fn named(pod: &PodInfo) -> Option<BTreeSet<String>> {
    let terms = &pod.node_affinity()?.node_selector_terms;
    let name = |term: &NodeSelectorTerm| {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let named = fields.iter().find(|field| field.key == "metadata.name" && field.operator == "In")?;
        named.values.as_ref()?.first().cloned()
    };
    if terms.is_empty() { None } else { terms.iter().map(name).collect() }
}

/// NodeAffinity.
pub fn affinity(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let added = cycle.settings.added_affinity.as_ref();
    if added.is_some_and(|added| !nodes::admits(added, &node.name, node.node.metadata.labels.as_ref())) {
        let reason = "node(s) didn't match scheduler-enforced node affinity";
        return Some(Refusal::unresolvable(AFFINITY, reason));
    }
    let reason = "node(s) didn't match Pod's node affinity/selector";
    (!node_matches(cycle.pod, node)).then(|| Refusal::unresolvable(AFFINITY, reason))
}

/// NodeAffinity's raw score: the weights of the preferred terms that match.
pub fn score_affinity(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let terms = cycle.pod.preferred_nodes().iter().chain(&cycle.settings.added_preferred);
    let matching = terms.filter(|term| term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}

fn ports_collide(a: &HostPort, b: &HostPort) -> bool {
    let any = |address: &str| address == "0.0.0.0";
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || any(&a.1) || any(&b.1))
}

/// NodePorts.
pub fn ports(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let wanted = &cycle.pod.host_ports;
    if wanted.is_empty() {
        return None;
    }
    let used = node.pods.iter().flat_map(|pod| &pod.host_ports);
    let taken = used.into_iter().any(|used| wanted.iter().any(|port| ports_collide(port, used)));
    taken.then(|| Refusal::new(PORTS, "node(s) didn't have free ports for the requested pod ports"))
}

fn normalized_image(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// ImageLocality's score: nodes that hold the images, spread by how many nodes do.
pub fn score_images(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let spec = cycle.pod.pod.spec.as_ref().filter(|_| cycle.snapshot.knows_images())?;
    let images: Vec<String> =
        spec.containers.iter().filter_map(|c| c.image.as_deref()).map(normalized_image).collect();
    let total = cycle.snapshot.nodes().len();
    let holders: Vec<usize> = images.iter().map(|image| cycle.snapshot.holders(image)).collect();
    if holders.iter().all(|count| *count == 0) {
        return None;
    }
    let ceiling = IMAGE_MAX * i64::try_from(images.len().max(1)).unwrap_or(1);
    let score = |node: &&NodeInfo| {
        let sizes = images.iter().zip(&holders).filter_map(|(image, holders)| {
            let size = *node.images.get(image)?;
            Some((size as f64 * *holders as f64 / total.max(1) as f64) as i64)
        });
        let sum = sizes.sum::<i64>().clamp(IMAGE_MIN, ceiling.max(IMAGE_MIN + 1));
        MAX_SCORE * (sum - IMAGE_MIN) / (ceiling - IMAGE_MIN).max(1)
    };
    Some(nodes.iter().map(score).collect())
}

//! How fast nodes of a zone may be emptied: a zone that fails as a whole is more likely a fault of ours, or of the
//! network, than of its nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Node;
use client::Meta;

use super::health::ready_state;

/// Between two nodes of a healthy zone.
const PACE: Duration = Duration::from_secs(10);
/// Between two nodes of a large zone that is mostly down.
const SLOW_PACE: Duration = Duration::from_secs(100);
/// A zone with this many nodes is large.
const LARGE: usize = 50;
/// A zone is mostly down from this share of silent nodes, percent, and from this many.
const MOSTLY_DOWN: (usize, usize) = (55, 2);

/// Whether a node may be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Now.
    Now,
    /// Ask again after this time.
    Later(Duration),
    /// Not while its zone is as it is; what has begun goes on.
    Paused,
    /// No node is healthy: nothing is emptied, and what has begun is called off.
    Never,
}

/// When each zone may next lose a node, on the process' clock.
#[derive(Debug, Default)]
pub struct Pacer {
    next: BTreeMap<String, Duration>,
}

/// A node's region and zone.
fn zone(node: &Node) -> String {
    let label = |key: &str| node.label(key).unwrap_or_default();
    let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
    format!("{region}:{zone}")
}

/// The pace in the zone of `node`; `None` = no node may go.
fn pace(node: &Node, nodes: &[Arc<Node>]) -> Option<Duration> {
    let own = zone(node);
    let zone: Vec<&Arc<Node>> = nodes.iter().filter(|other| zone(other) == own).collect();
    let down = zone.iter().filter(|node| ready_state(node) != "True").count();
    let mostly = down > MOSTLY_DOWN.1 && down * 100 >= zone.len() * MOSTLY_DOWN.0;
    if !mostly || down == zone.len() {
        // A zone that is down as a whole is emptied at the usual pace while others are not.
        Some(PACE)
    } else {
        (zone.len() > LARGE).then_some(SLOW_PACE)
    }
}

impl Pacer {
    /// Whether a node that is being emptied goes on being so.
    pub fn keep(nodes: &[Arc<Node>]) -> Eviction {
        let any = nodes.iter().any(|node| ready_state(node) == "True");
        if any { Eviction::Now } else { Eviction::Never }
    }

    /// Asks for one node at `now`; a yes counts.
    pub fn ask(&mut self, node: &Node, nodes: &[Arc<Node>], now: Duration) -> Eviction {
        if Pacer::keep(nodes) == Eviction::Never {
            return Eviction::Never;
        }
        let Some(pace) = pace(node, nodes) else { return Eviction::Paused };
        let next = self.next.entry(zone(node)).or_default();
        if *next > now {
            return Eviction::Later(*next - now);
        }
        *next = now + pace;
        Eviction::Now
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes(zone: &str, ready: usize, down: usize) -> Vec<Arc<Node>> {
        let node = |index: usize| {
            let status = if index < ready { "True" } else { "Unknown" };
            let object = json!({
                "metadata": {"name": format!("{zone}{index}"), "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            });
            Arc::new(serde_json::from_value::<Node>(object).expect("a node"))
        };
        (0..ready + down).map(node).collect()
    }

    #[test]
    fn zones_pace_evictions() {
        let ask = |all: &[Arc<Node>], seconds: &[u64]| {
            let mut pacer = Pacer::default();
            let last = all.last().expect("a node").clone();
            seconds.iter().map(|at| pacer.ask(&last, all, Duration::from_secs(*at))).collect::<Vec<_>>()
        };
        let seconds = Duration::from_secs;
        assert_eq!(
            ask(&nodes("a", 3, 1), &[0, 4, 10]),
            [Eviction::Now, Eviction::Later(seconds(6)), Eviction::Now]
        );
        assert_eq!(ask(&nodes("a", 2, 3), &[0]), [Eviction::Paused], "a small zone mostly down");
        assert_eq!(ask(&nodes("a", 20, 40), &[0, 10]), [Eviction::Now, Eviction::Later(seconds(90))]);
        assert_eq!(ask(&nodes("a", 0, 3), &[0]), [Eviction::Never]);
        let other = [nodes("b", 2, 0), nodes("a", 0, 3)].concat();
        assert_eq!(ask(&other, &[0]), [Eviction::Now], "another zone is well");
    }
}

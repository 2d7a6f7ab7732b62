//! Choosing a node's pod ranges.

use std::net::IpAddr;

use api::k8s::api::core::v1::Node;
use client::{EventKind, Meta, Plan};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::json;

/// The ranges a node has.
pub fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let mut texts: Vec<&String> = spec.pod_cidrs.iter().flatten().collect();
    if texts.is_empty() {
        texts.extend(&spec.pod_cidr);
    }
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// One free range out of each cluster range; `None` when one is full.
pub fn choose(cluster: &[IpNet], masks: (u8, u8), used: &[IpNet]) -> Option<Vec<IpNet>> {
    cluster.iter().map(|range| free(range, masks, used)).collect()
}

fn free(range: &IpNet, masks: (u8, u8), used: &[IpNet]) -> Option<IpNet> {
    let mask = if matches!(range, IpNet::V4(_)) { masks.0 } else { masks.1 };
    if mask < range.prefix_len() {
        return None;
    }
    let count = 1_u128.checked_shl(u32::from(mask - range.prefix_len())).unwrap_or(u128::MAX);
    let taken: Vec<&IpNet> =
        used.iter().filter(|one| range.contains(&one.addr()) || one.contains(&range.addr())).collect();
    // No more tries than ranges in use: one of them must be free.
    let tries =
        count.min(u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_mul(2).saturating_add(1));
    (0..tries.max(1).min(count)).filter_map(|index| nth(range, mask, index)).find(|candidate| {
        !taken.iter().any(|one| one.contains(&candidate.addr()) || candidate.contains(&one.addr()))
    })
}

fn nth(range: &IpNet, mask: u8, index: u128) -> Option<IpNet> {
    match range.network() {
        IpAddr::V4(base) => {
            let step = index.checked_shl(u32::from(32 - mask))?;
            let address = u32::from(base).checked_add(u32::try_from(step).ok()?)?;
            Ipv4Net::new(address.into(), mask).ok().map(IpNet::V4)
        }
        IpAddr::V6(base) => {
            let step = index.checked_shl(u32::from(128 - mask))?;
            let address = u128::from(base).checked_add(step)?;
            Ipv6Net::new(address.into(), mask).ok().map(IpNet::V6)
        }
    }
}

/// Gives the ranges to the node.
pub fn assign(node: &Node, chosen: &[IpNet]) -> Plan {
    let texts: Vec<String> = chosen.iter().map(IpNet::to_string).collect();
    let mut plan = Plan::none();
    plan.merge(node, json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}}));
    plan
}

/// No range is free.
pub fn exhausted(node: &Node) -> Plan {
    let mut plan = Plan::none();
    let text = format!("Node {} status is now: CIDRNotAvailable", node.name());
    plan.event(node, EventKind::Normal, "CIDRNotAvailable", text);
    plan.requeue(std::time::Duration::from_secs(30));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_range_is_chosen() {
        let parse = |text: &str| -> IpNet { text.parse().expect("a range") };
        let cluster = [parse("10.244.0.0/22"), parse("fd00::/56")];
        let chosen = |used: &[&str]| {
            let used: Vec<IpNet> = used.iter().map(|text| parse(text)).collect();
            choose(&cluster, (24, 64), &used)
                .map(|list| list.iter().map(IpNet::to_string).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]), Some(vec!["10.244.0.0/24".into(), "fd00::/64".into()]));
        let used = ["10.244.0.0/24", "10.244.2.0/24", "fd00::/64"];
        assert_eq!(chosen(&used), Some(vec!["10.244.1.0/24".into(), "fd00:0:0:1::/64".into()]));
        let full = ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"];
        assert_eq!(chosen(&full), None);
    }
}

//! What the policies of a cluster mean for the pods of one node. Pure; must not know nftables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::k8s::api::core::v1::Namespace;
use api::k8s::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::labels::Selector;
use client::Meta;
use ipnet::IpNet;

use super::pod::PodFacts;
use crate::nft::Protocol;

/// Ports of a protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Packets that are let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// Addresses at the other end; `None` = any.
    pub nets: Option<Vec<IpNet>>,
    /// Except these.
    pub except: Vec<IpNet>,
    /// Ports; `None` = any, of any protocol.
    pub ports: Option<Vec<Ports>>,
}

/// What a pod may receive or send; `None` = everything, for no policy speaks of it.
pub type Side = Option<Vec<Allowed>>;

/// Both directions of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// What it may receive.
    pub ingress: Side,
    /// What it may send.
    pub egress: Side,
}

/// The pods of a node by address.
pub type Plan = BTreeMap<IpAddr, Sides>;

/// What the cluster is like.
pub struct Cluster<'a> {
    /// All policies.
    pub policies: &'a [Arc<NetworkPolicy>],
    /// All pods.
    pub pods: &'a [Arc<PodFacts>],
    /// All namespaces.
    pub namespaces: &'a [Arc<Namespace>],
}

/// The plan of one node.
pub fn plan(cluster: &Cluster<'_>, node: &str) -> Plan {
    let mut plan = Plan::new();
    for pod in cluster.pods.iter().filter(|pod| &*pod.node == node && !pod.addresses.is_empty()) {
        let mut sides = Sides::default();
        let own = cluster.policies.iter().filter(|policy| policy.namespace() == pod.namespace());
        for policy in own {
            cluster.add(policy, pod, &mut sides);
        }
        for side in [&mut sides.ingress, &mut sides.egress].into_iter().flatten() {
            side.sort();
            side.dedup();
        }
        plan.extend(pod.addresses.iter().map(|address| (*address, sides.clone())));
    }
    plan
}

/// An absent selector of a policy's subject or an empty one means all; one that cannot be read means none.
fn selector(selector: Option<&LabelSelector>) -> Selector {
    match selector {
        None => Selector::everything(),
        some => Selector::from_object(some).unwrap_or_else(|_| Selector::nothing()),
    }
}

/// The other ends of a rule.
#[derive(Default)]
struct Peers<'a> {
    /// Anybody.
    any: bool,
    pods: Vec<&'a PodFacts>,
    blocks: Vec<(IpNet, Vec<IpNet>)>,
}

impl<'a> Cluster<'a> {
    fn add(&self, policy: &NetworkPolicy, pod: &PodFacts, sides: &mut Sides) {
        let Some(spec) = &policy.spec else { return };
        if !selector(spec.pod_selector.as_ref()).matches_opt(pod.meta().labels.as_ref()) {
            return;
        }
        let types: Vec<&str> = spec.policy_types.iter().flatten().map(String::as_str).collect();
        if types.is_empty() || types.contains(&"Ingress") {
            let side = sides.ingress.get_or_insert_default();
            for rule in spec.ingress.iter().flatten() {
                let peers = self.peers(policy.namespace(), rule.from.as_deref());
                ingress(&peers, rule.ports.as_deref(), pod, side);
            }
        }
        if types.contains(&"Egress") || (types.is_empty() && spec.egress.is_some()) {
            let side = sides.egress.get_or_insert_default();
            for rule in spec.egress.iter().flatten() {
                let peers = self.peers(policy.namespace(), rule.to.as_deref());
                self.egress(&peers, rule.ports.as_deref(), side);
            }
        }
    }

    fn peers(&self, namespace: &str, peers: Option<&[NetworkPolicyPeer]>) -> Peers<'a> {
        let mut found = Peers { any: peers.is_none_or(<[_]>::is_empty), ..Peers::default() };
        for peer in peers.into_iter().flatten() {
            if let Some(block) = &peer.ip_block {
                if let Ok(net) = block.cidr.parse::<IpNet>() {
                    let except = block.except.iter().flatten().filter_map(|text| text.parse().ok());
                    found.blocks.push((net.trunc(), except.collect()));
                }
                continue;
            }
            let wanted = selector(peer.pod_selector.as_ref());
            let within: Vec<&str> = match &peer.namespace_selector {
                None => vec![namespace],
                some => {
                    let selector = selector(some.as_ref());
                    let labels = |one: &&Arc<Namespace>| selector.matches_opt(one.metadata.labels.as_ref());
                    self.namespaces.iter().filter(labels).map(|one| one.name()).collect()
                }
            };
            let fits = |pod: &&PodFacts| {
                within.contains(&pod.namespace()) && wanted.matches_opt(pod.meta().labels.as_ref())
            };
            found.pods.extend(self.pods.iter().map(|pod| &**pod).filter(fits));
        }
        found
    }

    fn egress(&self, peers: &Peers<'_>, ports: Option<&[NetworkPolicyPort]>, side: &mut Vec<Allowed>) {
        let (mut numbers, mut named) = (Vec::new(), Vec::new());
        for port in ports.into_iter().flatten() {
            match (&port.port, protocol(port)) {
                (_, None) => {}
                (Some(IntOrString::String(name)), Some(protocol)) => named.push((name.as_str(), protocol)),
                (_, Some(_)) => numbers.extend(range(port)),
            }
        }
        let any = ports.is_none_or(<[_]>::is_empty);
        if any || !numbers.is_empty() {
            peers.allow(if any { None } else { Some(numbers) }, side);
        }
        // A name means another number at each of the other ends.
        let everybody: Vec<&PodFacts>;
        let pods = if peers.any {
            everybody = self.pods.iter().map(|pod| &**pod).collect();
            &everybody
        } else {
            &peers.pods
        };
        for (name, protocol) in named {
            let mut by_number: BTreeMap<u16, Vec<IpNet>> = BTreeMap::new();
            for pod in pods {
                if let Some(number) = pod.port(name, protocol) {
                    by_number
                        .entry(number)
                        .or_default()
                        .extend(pod.addresses.iter().copied().map(IpNet::from));
                }
            }
            for (number, nets) in by_number {
                let ports = Some(vec![Ports { protocol, first: number, last: number }]);
                push(side, Allowed { nets: Some(nets), except: Vec::new(), ports });
            }
        }
    }
}

fn ingress(peers: &Peers<'_>, ports: Option<&[NetworkPolicyPort]>, pod: &PodFacts, side: &mut Vec<Allowed>) {
    if ports.is_none_or(<[_]>::is_empty) {
        return peers.allow(None, side);
    }
    let number = |port: &NetworkPolicyPort| match (&port.port, protocol(port)) {
        (Some(IntOrString::String(name)), Some(protocol)) => {
            pod.port(name, protocol).map(|number| Ports { protocol, first: number, last: number })
        }
        _ => range(port),
    };
    let numbers: Vec<Ports> = ports.into_iter().flatten().filter_map(number).collect();
    if !numbers.is_empty() {
        peers.allow(Some(numbers), side);
    }
}

fn protocol(port: &NetworkPolicyPort) -> Option<Protocol> {
    Protocol::parse(port.protocol.as_deref())
}

/// The range of a port without a name; all ports when it has no number either.
fn range(port: &NetworkPolicyPort) -> Option<Ports> {
    let protocol = protocol(port)?;
    let Some(IntOrString::Int(first)) = port.port else {
        return port.port.is_none().then_some(Ports { protocol, first: 0, last: u16::MAX });
    };
    let number = |number: i32| u16::try_from(number).ok();
    Some(Ports { protocol, first: number(first)?, last: number(port.end_port.unwrap_or(first))? })
}

impl Peers<'_> {
    fn allow(&self, mut ports: Option<Vec<Ports>>, side: &mut Vec<Allowed>) {
        if let Some(ports) = &mut ports {
            ports.sort();
            ports.dedup();
        }
        if self.any {
            return push(side, Allowed { nets: None, except: Vec::new(), ports });
        }
        let nets = self.pods.iter().flat_map(|pod| pod.addresses.iter().copied().map(IpNet::from)).collect();
        push(side, Allowed { nets: Some(nets), except: Vec::new(), ports: ports.clone() });
        for (net, except) in &self.blocks {
            push(side, Allowed { nets: Some(vec![*net]), except: except.clone(), ports: ports.clone() });
        }
    }
}

/// Adds what lets anything through.
fn push(side: &mut Vec<Allowed>, mut allowed: Allowed) {
    if let Some(nets) = &mut allowed.nets {
        nets.sort();
        nets.dedup();
        if nets.is_empty() {
            return;
        }
    }
    side.push(allowed);
}

#[cfg(test)]
mod tests {
    use api::wire::Wire;

    use super::*;

    fn of<K: Wire>(yaml: &str) -> Arc<K> {
        Arc::new(K::from_tree(&serde_saphyr::from_str(yaml).unwrap()).unwrap())
    }

    fn pod(namespace: &str, name: &str, app: &str, ip: &str) -> Arc<PodFacts> {
        of(&format!(
            "metadata: {{namespace: {namespace}, name: {name}, labels: {{app: {app}}}}}\nspec:\n  nodeName: node\n  \
             containers: [{{ports: [{{name: web, containerPort: 8080}}]}}]\nstatus: {{phase: Running, podIPs: [{{ip: {ip}}}]}}\n"
        ))
    }

    fn check(policy: &str, expect: &str) {
        let policies: [Arc<NetworkPolicy>; 1] =
            [of(&format!("metadata: {{name: p, namespace: a}}\nspec: {policy}"))];
        let pods = [
            pod("a", "one", "db", "10.0.0.1"),
            pod("a", "two", "web", "10.0.0.2"),
            pod("b", "three", "web", "10.0.0.3"),
        ];
        let namespaces: [Arc<Namespace>; 2] =
            [of("metadata: {name: a, labels: {team: red}}"), of("metadata: {name: b, labels: {team: blue}}")];
        let cluster = Cluster { policies: &policies, pods: &pods, namespaces: &namespaces };
        let show = |side: &Side| {
            let Some(side) = side else { return "all".to_owned() };
            let one = |allowed: &Allowed| {
                let nets = allowed.nets.iter().flatten().map(|net| net.to_string().replace("/32", ""));
                let nets = if allowed.nets.is_none() {
                    "any".to_owned()
                } else {
                    nets.collect::<Vec<_>>().join(",")
                };
                let except: Vec<String> = allowed.except.iter().map(|net| format!("!{net}")).collect();
                let ports = allowed.ports.iter().flatten();
                let ports: Vec<String> =
                    ports.map(|p| format!(":{:?}/{}-{}", p.protocol, p.first, p.last)).collect();
                format!("{nets}{}{}", except.concat(), ports.concat())
            };
            format!("[{}]", side.iter().map(one).collect::<Vec<_>>().join(" "))
        };
        let plan = plan(&cluster, "node");
        let text: Vec<String> = plan
            .iter()
            .filter(|(_, sides)| **sides != Sides::default())
            .map(|(ip, sides)| format!("{ip} in {} out {}", show(&sides.ingress), show(&sides.egress)))
            .collect();
        assert_eq!(text.join("; "), expect, "{policy}");
        assert_eq!(plan.len(), 3);
    }

    #[test]
    fn policies_become_addresses_and_ports() {
        check("{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}", "10.0.0.1 in [] out all");
        check(
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
            "10.0.0.1 in [] out []; 10.0.0.2 in [] out []",
        );
        check(
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}, {port: web}, {protocol: UDP, port: 10, endPort: 20}]}]}",
            "10.0.0.1 in [10.0.0.2:Tcp/80-80:Tcp/8080-8080:Udp/10-20] out all",
        );
        check(
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}, {}]}",
            "10.0.0.1 in [any 10.0.0.3 192.0.2.0/24!192.0.2.128/25] out all",
        );
        check(
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: web}]}]}",
            "10.0.0.1 in all out [10.0.0.2,10.0.0.3:Tcp/8080-8080]",
        );
        check(
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}, {ports: [{port: nothing}]}]}",
            "10.0.0.1 in [] out all",
        );
    }
}

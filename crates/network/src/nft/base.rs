//! The fixed chains of the table: where packets enter, what is guarded, what is masqueraded.
//!
//! Must not know any service: what differs from cluster to cluster is in `Base`, the rest is in maps.

use ipnet::IpNet;

use super::{Family, Shape};

/// What the fixed chains and the shared shapes follow. Networks of the other family are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The name of the table.
    pub table: String,
    /// The family of the table.
    pub family: Family,
    /// Where pods live in the whole cluster: sources elsewhere are hidden behind the node. Empty: never.
    pub cluster_nets: Vec<IpNet>,
    /// Where pods live on this node; their traffic to outside `cluster_nets` is masqueraded. Empty: never.
    pub local_pod_nets: Vec<IpNet>,
    /// Where node ports answer; empty means every address of the node.
    pub node_port_nets: Vec<IpNet>,
    /// The bit of the packet mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// Hide the source of everything that goes to a cluster address.
    pub masquerade_all: bool,
}

/// A chain with its hook (empty for a chain that is jumped to) and its rules.
pub(super) struct FixedChain {
    pub name: &'static str,
    pub hook: &'static str,
    pub rules: Vec<String>,
}

impl Base {
    /// A table for `family` with no networks known yet and upstream's masquerade bit.
    pub fn new(table: &str, family: Family) -> Base {
        Base {
            table: table.to_owned(),
            family,
            cluster_nets: Vec::new(),
            local_pod_nets: Vec::new(),
            node_port_nets: Vec::new(),
            masquerade_mark: 0x4000,
            masquerade_all: false,
        }
    }

    /// A list of the nets of this family for a match, e.g. `{ 10.0.0.0/8 }`; `None` when there are none.
    fn nets(&self, nets: &[IpNet]) -> Option<String> {
        let words: Vec<String> =
            nets.iter().filter(|net| Family::of_net(net) == self.family).map(ToString::to_string).collect();
        (!words.is_empty()).then(|| format!("{{ {} }}", words.join(", ")))
    }

    /// A rule's part that asks for masquerading.
    pub(crate) fn mark(&self) -> String {
        format!("meta mark set meta mark | {:#x}", self.masquerade_mark)
    }

    /// The rule that hides sources which a pod could not answer directly; `None` when that is never wanted.
    pub(crate) fn mark_outsiders(&self) -> Option<String> {
        if self.masquerade_all {
            return Some(self.mark());
        }
        let nets = self.nets(&self.cluster_nets)?;
        Some(format!("{} saddr != {nets} {}", self.family.word(), self.mark()))
    }

    /// The match of sources that are pods; `None` when their networks are unknown.
    pub(crate) fn source_is_pod(&self) -> Option<String> {
        let nets = self.nets(&self.cluster_nets)?;
        Some(format!("{} saddr {nets}", self.family.word()))
    }

    /// The match of packets to an address where node ports answer.
    fn to_node_port(&self) -> String {
        match self.nets(&self.node_port_nets) {
            Some(nets) => format!("fib daddr type local {} daddr {nets}", self.family.word()),
            None if self.node_port_nets.is_empty() => "fib daddr type local".to_owned(),
            // Only networks of the other family were named: match nothing.
            None => {
                format!("fib daddr type local {} daddr {}", self.family.word(), self.family.unspecified())
            }
        }
    }

    /// The rules of a shared chain.
    pub(super) fn shape_rules(&self, shape: Shape) -> Vec<String> {
        let mut rules = Vec::new();
        match shape {
            Shape::Cluster(count) => {
                rules.extend(self.mark_outsiders());
                self.pick(&mut rules, true, "endpoints", count);
            }
            Shape::External(count) => {
                rules.push(self.mark());
                self.pick(&mut rules, true, "endpoints", count);
            }
            Shape::Port(count) => {
                rules.push(self.mark());
                self.pick(&mut rules, false, "port-endpoints", count);
            }
            Shape::PortInside(count) => self.pick(&mut rules, false, "port-endpoints", count),
            Shape::ExternalLocal(all, local) => {
                if all > 0 {
                    rules.extend(self.source_is_pod().map(|pods| format!("{pods} goto cluster/{all}")));
                    rules.push(format!("fib saddr type local goto external/{all}"));
                }
                self.pick_or_drop(&mut rules, true, "local-endpoints", local);
            }
            Shape::PortLocal(all, local) => {
                if all > 0 {
                    rules.extend(self.source_is_pod().map(|pods| format!("{pods} goto port-inside/{all}")));
                    rules.push(format!("fib saddr type local goto port/{all}"));
                }
                self.pick_or_drop(&mut rules, false, "local-port-endpoints", local);
            }
            Shape::HostAddress => self.host(&mut rules, true, "endpoints"),
            Shape::HostPort => self.host(&mut rules, false, "port-endpoints"),
        }
        rules
    }

    fn host(&self, rules: &mut Vec<String>, by_address: bool, map: &str) {
        rules.push(format!("fib saddr type local {}", self.mark()));
        self.pick(rules, by_address, map, 1);
    }

    fn pick_or_drop(&self, rules: &mut Vec<String>, by_address: bool, map: &str, count: u32) {
        if count == 0 {
            rules.push("drop".to_owned());
        } else {
            self.pick(rules, by_address, map, count);
        }
    }

    /// Chooses one of `count` endpoints, each as likely as the other.
    ///
    /// The random slot is put into the packet's queueing priority, because nft 1.0.6 cannot read back a map with
    /// a bare number in its key, and so refuses later rules that use it. Nothing else would do: marks and zones
    /// are other people's, while the kernel sets the priority anew when it forwards, and only the first packet
    /// of a connection passes here.
    ///
    /// The second try is for a packet that is on its way while a transaction takes the number of endpoints down:
    /// the first may then meet an empty slot, and slot 0 is never empty.
    fn pick(&self, rules: &mut Vec<String>, by_address: bool, map: &str, count: u32) {
        let family = self.family.word();
        let address = if by_address { format!("{family} daddr . ") } else { String::new() };
        let mut slots = vec!["0:0".to_owned()];
        if count > 1 {
            slots.insert(0, format!("numgen random mod {count}"));
        }
        for slot in slots {
            rules.push(format!("meta priority set {slot}"));
            rules.push(format!(
                "meta l4proto {{ tcp, udp, sctp }} dnat {family} addr . port to {address}meta l4proto . th dport . \
                 meta priority map @{map}"
            ));
        }
    }

    /// The fixed chains, in an order in which each leads only to those before it.
    pub(super) fn chains(&self) -> Vec<FixedChain> {
        let ip = self.family.word();
        let address = format!("{ip} daddr . meta l4proto . th dport");
        let ports = format!("{} meta l4proto . th dport", self.to_node_port());
        let closed = vec![
            format!("ct state new {address} vmap @closed-addresses"),
            format!("ct state new {ports} vmap @closed-ports"),
        ];
        let mut incoming = vec![format!("ct state new {address} vmap @restricted-addresses")];
        incoming.extend(closed.iter().cloned());
        let unused = format!("ct state new {ip} daddr @cluster-addresses goto refuse");
        let chain = |name, hook, rules| FixedChain { name, hook, rules };
        vec![
            chain("refuse", "", vec!["meta l4proto tcp reject with tcp reset".into(), "reject".into()]),
            chain("guard", "type filter hook prerouting priority -300", self.guard()),
            chain("incoming", "type filter hook prerouting priority -110", incoming),
            chain("outgoing", "type filter hook output priority -110", closed),
            chain(
                "forwarded",
                "type filter hook forward priority 0",
                vec!["ct state invalid drop".into(), unused.clone()],
            ),
            chain("sent", "type filter hook output priority 0", vec![unused]),
            chain(
                "services",
                "",
                vec![format!("{address} vmap @service-addresses"), format!("{ports} vmap @service-ports")],
            ),
            chain("nat-prerouting", "type nat hook prerouting priority -100", vec!["jump services".into()]),
            chain("nat-output", "type nat hook output priority -100", vec!["jump services".into()]),
            chain("nat-postrouting", "type nat hook postrouting priority 100", self.postrouting()),
        ]
    }

    /// Node ports answer on 127.0.0.1 too, for which the kernel must route loopback addresses
    /// (`route_localnet`). So nobody else may use them: a neighbour could otherwise reach local-only servers.
    fn guard(&self) -> Vec<String> {
        match self.family {
            Family::V4 => vec![
                "iifname != \"lo\" ip daddr 127.0.0.0/8 drop".to_owned(),
                "iifname != \"lo\" ip saddr 127.0.0.0/8 drop".to_owned(),
            ],
            Family::V6 => Vec::new(),
        }
    }

    fn postrouting(&self) -> Vec<String> {
        let ip = self.family.word();
        let mark = self.masquerade_mark;
        let mut rules = vec![
            format!(
                "meta mark & {mark:#x} == {mark:#x} meta mark set meta mark ^ {mark:#x} masquerade fully-random"
            ),
            format!("{ip} saddr . {ip} daddr @hairpin masquerade fully-random"),
        ];
        if let Some(pods) = self.nets(&self.local_pod_nets) {
            let multicast = match self.family {
                Family::V4 => "224.0.0.0/4",
                Family::V6 => "ff00::/8",
            };
            let mut inside: Vec<IpNet> = self.cluster_nets.clone();
            inside.extend(&self.local_pod_nets);
            inside.extend(multicast.parse::<IpNet>());
            let inside = self.nets(&IpNet::aggregate(&inside)).unwrap_or_default();
            rules.push(format!("{ip} saddr {pods} {ip} daddr != {inside} masquerade fully-random"));
        }
        rules
    }
}

//! A plan as an nftables table. Must not know policies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::plan::{Allowed, Plan, Ports};

/// One direction: the prefix of its chains, the match of the pod's own end, that of the other end.
const DIRECTIONS: [(&str, &str, &str); 2] = [("in", "daddr", "saddr"), ("out", "saddr", "daddr")];

/// What the table is written for.
pub struct Place<'a> {
    /// The table's name.
    pub table: &'a str,
    /// Networks of this node's pods: an address in them that is not known yet gets nothing.
    pub pod_nets: &'a [IpNet],
    /// The node's DNS, which every pod may ask.
    pub dns: Option<IpAddr>,
}

fn family(address: IpAddr) -> (&'static str, &'static str) {
    if address.is_ipv4() { ("ip", "4") } else { ("ip6", "6") }
}

/// Commands that replace the table as one transaction.
pub fn table(plan: &Plan, place: &Place<'_>) -> String {
    let name = format!("inet {}", place.table);
    let mut out = format!("add table {name}\ndelete table {name}\ntable {name} {{\n");
    for (version, kind) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        let known: Vec<String> =
            plan.keys().filter(|ip| family(**ip).1 == version).map(ToString::to_string).collect();
        let _ = writeln!(out, "set known{version} {{ type {kind}; {} }}", elements(&known));
    }
    for (at, (prefix, _, other)) in DIRECTIONS.iter().enumerate() {
        // Pods under the same rules share a chain.
        let mut chains: BTreeMap<&[Allowed], usize> = BTreeMap::new();
        let mut jumps: BTreeMap<&str, Vec<String>> = BTreeMap::from([("4", vec![]), ("6", vec![])]);
        for (ip, sides) in plan {
            let side = if at == 0 { &sides.ingress } else { &sides.egress };
            let Some(allowed) = side else { continue };
            let next = chains.len();
            let number = *chains.entry(allowed).or_insert(next);
            jumps.entry(family(*ip).1).or_default().push(format!("{ip} : jump {prefix}-{number}"));
        }
        for (allowed, number) in chains {
            let _ = writeln!(out, "chain {prefix}-{number} {{");
            allowed.iter().for_each(|one| rules(one, other, &mut out));
            out.push_str("drop\n}\n");
        }
        for (version, jumps) in jumps {
            let kind = if version == "4" { "ipv4_addr" } else { "ipv6_addr" };
            let _ = writeln!(out, "map {prefix}{version} {{ type {kind} : verdict; {} }}", elements(&jumps));
        }
    }
    hooks(place, &mut out);
    out.push_str("}\n");
    out
}

fn elements(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { format!("elements = {{ {} }}", words.join(", ")) }
}

/// The chains that the kernel calls. Answers pass; so does what a pod asks of its node's DNS.
fn hooks(place: &Place<'_>, out: &mut String) {
    out.push_str("chain forward {\ntype filter hook forward priority 5; policy accept;\n");
    out.push_str("ct state established,related accept\n");
    for net in place.pod_nets {
        let (word, version) = family(net.addr());
        for (_, own, _) in DIRECTIONS {
            let _ = writeln!(out, "{word} {own} {net} {word} {own} != @known{version} drop");
        }
    }
    for (word, version) in [("ip", "4"), ("ip6", "6")] {
        let _ = writeln!(out, "{word} saddr vmap @out{version}\n{word} daddr vmap @in{version}");
    }
    // From a pod to its own node.
    out.push_str("}\nchain input {\ntype filter hook input priority 5; policy accept;\n");
    out.push_str("ct state established,related accept\nmeta l4proto icmpv6 accept\n");
    if let Some(dns) = place.dns {
        let _ = writeln!(out, "{} daddr {dns} accept", family(dns).0);
    }
    out.push_str("ip saddr vmap @out4\nip6 saddr vmap @out6\n}\n");
}

/// The rules of one permission: addresses times ports.
fn rules(allowed: &Allowed, other: &str, out: &mut String) {
    for address in addresses(allowed, other) {
        for port in ports(allowed.ports.as_deref()) {
            let _ = writeln!(out, "{address}{port}return");
        }
    }
}

fn addresses(allowed: &Allowed, other: &str) -> Vec<String> {
    let Some(nets) = &allowed.nets else { return vec![String::new()] };
    let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
    let mut found = Vec::new();
    for (word, four) in [("ip", true), ("ip6", false)] {
        let of = || nets.iter().filter(move |net| net.addr().is_ipv4() == four);
        let hosts: Vec<String> = of().filter(single).map(|net| net.addr().to_string()).collect();
        if !hosts.is_empty() {
            found.push(format!("{word} {other} {{ {} }} ", hosts.join(", ")));
        }
        // Each network by itself: those of one set must not overlap.
        for net in of().filter(|net| !single(net)) {
            let mut text = format!("{word} {other} {net} ");
            for except in allowed.except.iter().filter(|net| net.addr().is_ipv4() == four) {
                let _ = write!(text, "{word} {other} != {except} ");
            }
            found.push(text);
        }
    }
    found
}

fn ports(ports: Option<&[Ports]>) -> Vec<String> {
    let Some(ports) = ports else { return vec![String::new()] };
    let one = |port: &Ports| {
        let protocol = port.protocol.word();
        match (port.first, port.last) {
            (0, u16::MAX) => format!("meta l4proto {protocol} "),
            (first, last) if first == last => format!("{protocol} dport {first} "),
            (first, last) => format!("{protocol} dport {first}-{last} "),
        }
    };
    ports.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Sides;
    use super::*;
    use crate::nft::Protocol;

    #[test]
    fn a_table_of_two_pods() {
        let ports = Some(vec![Ports { protocol: Protocol::Tcp, first: 80, last: 80 }]);
        let nets = Some(vec!["10.0.0.9/32".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]);
        let allowed = Allowed { nets, except: vec!["192.0.2.128/25".parse().unwrap()], ports };
        let sides = Sides { ingress: Some(vec![allowed]), egress: None };
        let plan = Plan::from([
            ("10.0.0.1".parse().unwrap(), sides.clone()),
            ("10.0.0.2".parse().unwrap(), sides),
            ("10.0.0.3".parse().unwrap(), Sides { ingress: None, egress: Some(vec![]) }),
        ]);
        let pod_nets = ["10.0.0.0/24".parse().unwrap()];
        let place = Place { table: "t", pod_nets: &pod_nets, dns: Some("10.96.0.10".parse().unwrap()) };
        let expect = "add table inet t\ndelete table inet t\ntable inet t {\n\
            set known4 { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2, 10.0.0.3 } }\nset known6 { type ipv6_addr;  }\n\
            chain in-0 {\nip saddr { 10.0.0.9 } tcp dport 80 return\n\
            ip saddr 192.0.2.0/24 ip saddr != 192.0.2.128/25 tcp dport 80 return\ndrop\n}\n\
            map in4 { type ipv4_addr : verdict; elements = { 10.0.0.1 : jump in-0, 10.0.0.2 : jump in-0 } }\n\
            map in6 { type ipv6_addr : verdict;  }\n\
            chain out-0 {\ndrop\n}\n\
            map out4 { type ipv4_addr : verdict; elements = { 10.0.0.3 : jump out-0 } }\nmap out6 { type ipv6_addr : verdict;  }\n\
            chain forward {\ntype filter hook forward priority 5; policy accept;\nct state established,related accept\n\
            ip daddr 10.0.0.0/24 ip daddr != @known4 drop\nip saddr 10.0.0.0/24 ip saddr != @known4 drop\n\
            ip saddr vmap @out4\nip daddr vmap @in4\nip6 saddr vmap @out6\nip6 daddr vmap @in6\n}\n\
            chain input {\ntype filter hook input priority 5; policy accept;\nct state established,related accept\n\
            meta l4proto icmpv6 accept\nip daddr 10.96.0.10 accept\nip saddr vmap @out4\nip6 saddr vmap @out6\n}\n}\n";
        assert_eq!(table(&plan, &place), expect);
    }
}

//! From Services, endpoints and host ports to fragments of the table. Pure.
//!
//! Must not know the API server, the kernel or time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::choice::{Choice, Place, Target, choose};
use super::service::{Endpoint, ServiceInfo, ServicePort, SliceInfo};
use crate::nft::{Base, Family, Fragment, Key, Map, Model, Protocol, Shape, Value, affinity_set_word};

/// A front door for UDP, for clearing what connection tracking remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// An address and port.
    Address(IpAddr, u16),
    /// A port on every address of the node.
    Port(u16),
}

/// The plan for one Service or pod in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What it wants in the table.
    pub fragment: Fragment,
    /// What it wants for addresses that a user chose; gives way to everybody's `fragment`, so that an external
    /// address cannot take over another Service's cluster address.
    pub chosen: Fragment,
    /// Its UDP front doors, and the endpoints that may still be talked to through them.
    pub udp: BTreeMap<Door, BTreeSet<Target>>,
}

/// What all plans of one node share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The table's fixed part, which also says the family.
    pub base: Base,
    /// Where this node is.
    pub place: Place,
    /// The address at which this node's own DNS server answers port 53: packets there are not for Services.
    pub dns_address: Option<IpAddr>,
}

impl Context {
    fn family(&self) -> Family {
        self.base.family
    }

    fn ours(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| Family::of(*address) == self.family()).collect()
    }

    fn answered_by_dns(&self, address: IpAddr, port: &ServicePort) -> bool {
        self.dns_address == Some(address) && port.port == 53 && port.protocol != Protocol::Sctp
    }
}

/// The name under which a Service's fragment is held.
pub fn service_owner(key: &str) -> Arc<str> {
    key.into()
}

/// The same for what gives way: it sorts behind every Service.
pub fn chosen_owner(key: &str) -> Arc<str> {
    format!("~{key}").into()
}

/// The endpoints of one port, from all slices of its Service.
pub fn port_endpoints<'a>(
    slices: impl Iterator<Item = &'a SliceInfo> + 'a,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a Endpoint> + 'a {
    let key = (port.name.clone(), port.protocol);
    slices.filter_map(move |slice| slice.ports.get(&key)).flatten()
}

/// Plans one Service.
pub fn plan_service(service: &ServiceInfo, slices: &[&SliceInfo], context: &Context) -> Plan {
    let mut plan = Plan::default();
    for address in context.ours(&service.cluster_addresses) {
        if context.dns_address != Some(address) {
            plan.fragment.put(Map::ClusterAddresses, Key::Plain(address), Value::Present);
        }
    }
    for port in &service.ports {
        let of_family = |endpoint: &&Endpoint| Family::of(endpoint.address) == context.family();
        let endpoints: Vec<&Endpoint> =
            port_endpoints(slices.iter().copied(), port).filter(of_family).collect();
        let choice = choose(endpoints.iter().copied(), &context.place);
        let mut planner = PortPlanner { service, port, choice: &choice, context, plan: &mut plan };
        planner.all();
        if port.protocol == Protocol::Udp {
            let serving = endpoints.iter().filter(|e| e.serving).map(|e| (e.address, e.port)).collect();
            planner.udp_doors(&serving);
        }
    }
    plan
}

/// Plans one port of one Service.
struct PortPlanner<'a> {
    service: &'a ServiceInfo,
    port: &'a ServicePort,
    choice: &'a Choice,
    context: &'a Context,
    plan: &'a mut Plan,
}

/// Where packets come in, for one port.
#[derive(Clone, Copy)]
enum Entry {
    Cluster(IpAddr),
    External(IpAddr),
    NodePort(u16),
}

impl PortPlanner<'_> {
    fn all(&mut self) {
        for address in self.context.ours(&self.service.cluster_addresses) {
            if !self.context.answered_by_dns(address, self.port) {
                self.cluster(address);
            }
        }
        for address in self.context.ours(&self.service.external_addresses) {
            self.external(Entry::External(address));
        }
        for address in self.context.ours(&self.service.balancer_addresses) {
            self.restrict(address);
        }
        if let Some(node_port) = self.port.node_port {
            self.external(Entry::NodePort(node_port));
        }
        for address in &self.choice.on_this_node {
            self.plan.fragment.put(Map::Hairpin, Key::Twice(*address), Value::Present);
        }
    }

    fn nothing_anywhere(&self) -> bool {
        self.choice.everywhere.is_empty() && self.choice.here.is_empty()
    }

    /// Traffic to a cluster address.
    fn cluster(&mut self, address: IpAddr) {
        let entry = Entry::Cluster(address);
        let choice = self.choice;
        let targets = if self.service.internal_local { &choice.here } else { &choice.everywhere };
        if targets.is_empty() {
            let verdict = if self.nothing_anywhere() { Value::Reject } else { Value::Drop };
            return self.close(entry, verdict);
        }
        let verdict = match self.service.affinity_s {
            Some(timeout_s) => {
                let name = if self.service.internal_local { "affinity-here" } else { "affinity" };
                Value::Chain(self.sticky_chain(name, targets, timeout_s))
            }
            None => {
                self.slots(Map::Endpoints, entry, targets);
                Value::Shape(Shape::Cluster(count(targets)))
            }
        };
        self.open(entry, verdict);
    }

    /// Traffic from outside to an external address or a node port.
    fn external(&mut self, entry: Entry) {
        let choice = self.choice;
        let any = if self.service.external_local {
            !self.nothing_anywhere()
        } else {
            !choice.everywhere.is_empty()
        };
        if !any {
            return self.close(entry, Value::Reject);
        }
        if let Some(timeout_s) = self.service.affinity_s {
            let name = self.sticky_external(timeout_s);
            return self.open(entry, Value::Chain(name));
        }
        let (all, here) = (count(&choice.everywhere), count(&choice.here));
        let local = self.service.external_local;
        let (shape, map, local_map) = match (entry, local) {
            (Entry::NodePort(_), false) => (Shape::Port(all), Map::PortEndpoints, None),
            (Entry::NodePort(_), true) => {
                (Shape::PortLocal(all, here), Map::PortEndpoints, Some(Map::LocalPortEndpoints))
            }
            (_, false) => (Shape::External(all), Map::Endpoints, None),
            (_, true) => (Shape::ExternalLocal(all, here), Map::Endpoints, Some(Map::LocalEndpoints)),
        };
        self.slots(map, entry, &choice.everywhere);
        if let Some(local_map) = local_map {
            self.slots(local_map, entry, &choice.here);
        }
        self.open(entry, Value::Shape(shape));
    }

    fn slots(&mut self, map: Map, entry: Entry, targets: &[Target]) {
        let protocol = self.port.protocol;
        for (slot, (address, port)) in (0_u32..).zip(targets) {
            let key = match entry {
                Entry::Cluster(at) | Entry::External(at) => {
                    Key::AddressSlot(at, protocol, self.port.port, slot)
                }
                Entry::NodePort(at) => Key::PortSlot(protocol, at, slot),
            };
            self.fragment(entry).put(map, key, Value::Target(*address, *port));
        }
    }

    fn fragment(&mut self, entry: Entry) -> &mut Fragment {
        match entry {
            Entry::External(_) => &mut self.plan.chosen,
            Entry::Cluster(_) | Entry::NodePort(_) => &mut self.plan.fragment,
        }
    }

    fn open(&mut self, entry: Entry, verdict: Value) {
        let (map, key) = match entry {
            Entry::Cluster(at) | Entry::External(at) => (Map::ServiceAddresses, self.key(at)),
            Entry::NodePort(at) => (Map::ServicePorts, Key::Port(self.port.protocol, at)),
        };
        self.fragment(entry).put(map, key, verdict);
    }

    fn close(&mut self, entry: Entry, verdict: Value) {
        let (map, key) = match entry {
            Entry::Cluster(at) | Entry::External(at) => (Map::ClosedAddresses, self.key(at)),
            Entry::NodePort(at) => (Map::ClosedPorts, Key::Port(self.port.protocol, at)),
        };
        self.fragment(entry).put(map, key, verdict);
    }

    fn key(&self, address: IpAddr) -> Key {
        Key::Address(address, self.port.protocol, self.port.port)
    }

    /// Lets only some sources reach a load balancer's address.
    fn restrict(&mut self, address: IpAddr) {
        let family = self.context.family();
        let ranges = &self.service.source_ranges;
        if ranges.is_empty() {
            return;
        }
        let allowed: Vec<IpNet> =
            ranges.iter().copied().filter(|net| Family::of_net(net) == family).collect();
        let verdict = if allowed.is_empty() {
            Value::Drop
        } else {
            let words: Vec<String> = IpNet::aggregate(&allowed).iter().map(ToString::to_string).collect();
            let name: Arc<str> = format!("sources/{}", self.service.key).into();
            let rules =
                vec![format!("{} saddr {{ {} }} return", family.word(), words.join(", ")), "drop".into()];
            self.plan.fragment.chains.insert(Arc::clone(&name), rules);
            Value::Chain(name)
        };
        let key = self.key(address);
        self.plan.fragment.put(Map::RestrictedAddresses, key, verdict);
    }

    fn chain_name(&self, kind: &str) -> Arc<str> {
        format!("{kind}/{}/{}/{}", self.service.key, self.port.protocol.word(), self.port.word()).into()
    }

    /// A chain that sends a client to the endpoint that it had, else to one at random, and remembers it.
    fn sticky_chain(&mut self, kind: &str, targets: &[Target], timeout_s: u32) -> Arc<str> {
        let mut rules: Vec<String> = self.context.base.mark_outsiders().into_iter().collect();
        self.sticky_rules(&mut rules, targets, timeout_s);
        let name = self.chain_name(kind);
        self.plan.fragment.chains.insert(Arc::clone(&name), rules);
        name
    }

    /// The chain for traffic from outside, which leads to the one for traffic from inside where it can.
    fn sticky_external(&mut self, timeout_s: u32) -> Arc<str> {
        let choice = self.choice;
        let base = &self.context.base;
        let mut rules = Vec::new();
        let inside = (!choice.everywhere.is_empty())
            .then(|| self.sticky_chain("affinity", &choice.everywhere, timeout_s));
        if !self.service.external_local {
            rules.push(base.mark());
            rules.extend(inside.map(|chain| format!("goto {chain}")));
        } else {
            if let Some(chain) = inside {
                rules.extend(base.source_is_pod().map(|pods| format!("{pods} goto {chain}")));
                rules.push(format!("fib saddr type local {} goto {chain}", base.mark()));
            }
            if choice.here.is_empty() {
                rules.push("drop".to_owned());
            } else {
                self.sticky_rules(&mut rules, &choice.here, timeout_s);
            }
        }
        let name = self.chain_name("affinity-external");
        self.plan.fragment.chains.insert(Arc::clone(&name), rules);
        name
    }

    fn sticky_rules(&mut self, rules: &mut Vec<String>, targets: &[Target], timeout_s: u32) {
        let ip = self.context.family().word();
        let protocol = self.port.protocol;
        let mut ends = Vec::new();
        for (address, port) in targets {
            let word = affinity_set_word(&self.service.key, protocol, &self.port.word(), *address, *port);
            let to = match address {
                IpAddr::V4(address) => format!("{address}:{port}"),
                IpAddr::V6(address) => format!("[{address}]:{port}"),
            };
            let send = format!(
                "update @{word} {{ {ip} saddr timeout {timeout_s}s }} meta l4proto {} dnat to {to}",
                protocol.word()
            );
            rules.push(format!("{ip} saddr @{word} {send}"));
            ends.push(send);
            self.plan.fragment.sets.insert(word.into());
        }
        // One of n, else one of the n-1 others, and so on: each is as likely.
        for (left, send) in (1..=ends.len()).rev().zip(ends) {
            let odds = if left > 1 { format!("numgen random mod {left} 0 ") } else { String::new() };
            rules.push(format!("{odds}{send}"));
        }
    }

    fn udp_doors(&mut self, serving: &BTreeSet<Target>) {
        let addresses = [&self.service.cluster_addresses[..], &self.service.external_addresses[..]].concat();
        let mut doors: Vec<Door> =
            self.context.ours(&addresses).into_iter().map(|at| Door::Address(at, self.port.port)).collect();
        doors.extend(self.port.node_port.map(Door::Port));
        for door in doors {
            self.plan.udp.insert(door, serving.clone());
        }
    }
}

fn count(targets: &[Target]) -> u32 {
    u32::try_from(targets.len()).unwrap_or(u32::MAX)
}

/// A pod's claim to a port of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address of the node; `None`: all.
    pub host_address: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's address.
    pub pod_address: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

/// Plans the host ports of one pod.
pub fn plan_host_ports(ports: &[HostPort], context: &Context) -> Plan {
    let mut plan = Plan::default();
    for port in ports.iter().filter(|port| Family::of(port.pod_address) == context.family()) {
        let target = (port.pod_address, port.pod_port);
        let fragment = &mut plan.fragment;
        let to = Value::Target(target.0, target.1);
        let (protocol, number) = (port.protocol, port.host_port);
        let door = match port.host_address {
            Some(host) if Family::of(host) != context.family() => continue,
            Some(host) => {
                let key = Key::Address(host, protocol, number);
                fragment.put(Map::ServiceAddresses, key, Value::Shape(Shape::HostAddress));
                fragment.put(Map::Endpoints, Key::AddressSlot(host, protocol, number, 0), to);
                Door::Address(host, number)
            }
            None => {
                let key = Key::Port(protocol, number);
                fragment.put(Map::ServicePorts, key, Value::Shape(Shape::HostPort));
                fragment.put(Map::PortEndpoints, Key::PortSlot(protocol, number, 0), to);
                Door::Port(number)
            }
        };
        fragment.put(Map::Hairpin, Key::Twice(target.0), Value::Present);
        if protocol == Protocol::Udp {
            plan.udp.insert(door, BTreeSet::from([target]));
        }
    }
    plan
}

/// Plans a whole node at once: the same table that a series of single changes ends at.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a ServiceInfo>,
    slices: &[SliceInfo],
    host_ports: &[(String, Vec<HostPort>)],
    context: &Context,
) -> Model {
    let mut model = Model::new(context.base.clone());
    for service in services {
        let of_service: Vec<&SliceInfo> =
            slices.iter().filter(|slice| slice.service == service.key).collect();
        let plan = plan_service(service, &of_service, context);
        model.set(&service_owner(&service.key), Some(plan.fragment));
        model.set(&chosen_owner(&service.key), Some(plan.chosen));
    }
    for (pod, ports) in host_ports {
        model.set(&pod_owner(pod), Some(plan_host_ports(ports, context).fragment));
    }
    model
}

/// The name under which a pod's fragment is held. Nothing else has a space in its name.
pub fn pod_owner(key: &str) -> Arc<str> {
    format!("pod {key}").into()
}

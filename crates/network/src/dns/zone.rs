//! The cluster's names, as a table in memory.
//!
//! Must not know messages or sockets: labels in, facts out. The names are those of the Kubernetes DNS
//! specification 1.1, with `10-1-2-3.ns.pod` for pods as CoreDNS answers them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use api::k8s::api::core::v1::Service;
use api::k8s::api::discovery::v1::EndpointSlice;
use client::Meta;

use crate::nft::Protocol;

/// The version of the specification that the names follow.
const SCHEMA_VERSION: &str = "1.1.0";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A port that a name is made for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// What the zone keeps of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNames {
    /// Cluster addresses; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// Its endpoints are its addresses.
    pub headless: bool,
    /// It is another name's alias.
    pub alias: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

impl ServiceNames {
    /// Reads a Service.
    pub fn parse(service: &Service) -> ServiceNames {
        let Some(spec) = &service.spec else { return ServiceNames::default() };
        if spec.type_.as_deref() == Some("ExternalName") {
            let alias = spec.external_name.as_deref().map(|name| name.trim_end_matches('.').to_lowercase());
            return ServiceNames { alias, ..ServiceNames::default() };
        }
        let listed = match &spec.cluster_ips {
            Some(listed) if !listed.is_empty() => listed.as_slice(),
            _ => spec.cluster_ip.as_slice(),
        };
        let port = |port: &api::k8s::api::core::v1::ServicePort| {
            let number = u16::try_from(port.port).ok()?;
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some(Port { name: lower(port.name.as_deref()), protocol, number })
        };
        ServiceNames {
            addresses: listed.iter().filter_map(|word| word.parse().ok()).collect(),
            headless: listed.iter().any(|word| word == "None"),
            alias: None,
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
        }
    }
}

/// An endpoint that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointNames {
    /// Its address.
    pub address: IpAddr,
    /// Its host name within the service.
    pub host: String,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What the zone keeps of an EndpointSlice: those endpoints that are to be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceNames {
    /// `namespace/name` of its Service.
    pub service: String,
    /// Its ready endpoints. (For `publishNotReadyAddresses` the slices call all of them ready.)
    pub endpoints: Vec<EndpointNames>,
}

impl SliceNames {
    /// Reads a slice; `None` when it belongs to no Service or holds no addresses.
    pub fn parse(slice: &EndpointSlice) -> Option<SliceNames> {
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
        let port = |port: &api::k8s::api::discovery::v1::EndpointPort| {
            let number = u16::try_from(port.port?).ok()?;
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some(Port { name: lower(port.name.as_deref()), protocol, number })
        };
        let ports: Vec<Port> = slice.ports.iter().flatten().filter_map(port).collect();
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter_map(|word| word.parse::<IpAddr>().ok());
            for address in addresses.filter(|_| ready) {
                let host = lower(endpoint.hostname.as_deref());
                let host = if host.is_empty() { dashed(address) } else { host };
                endpoints.push(EndpointNames { address, host, ports: ports.clone() });
            }
        }
        Some(SliceNames { service: format!("{}/{service}", slice.namespace()), endpoints })
    }
}

fn lower(word: Option<&str>) -> String {
    word.unwrap_or_default().to_lowercase()
}

/// An address as a label.
fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        // All groups, since `::` has no one meaning once it is dashes.
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from);
    v4.or_else(|| label.replace('-', ":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::from))
}

/// A port at a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The port's number.
    pub port: u16,
    /// Labels of the name, below the zone.
    pub labels: Vec<String>,
    /// The addresses of that name.
    pub addresses: Vec<IpAddr>,
}

/// What a name below the zone is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, and nothing below it.
    Nothing,
    /// It exists, for itself or for names below it, and has none of the records known here.
    Bare,
    /// The zone itself.
    Apex,
    /// Addresses, and the ports at the name.
    Addresses {
        /// Addresses of both families.
        addresses: Vec<IpAddr>,
        /// What a question for all ports of a Service gets.
        targets: Vec<Target>,
    },
    /// Ports only.
    Targets(Vec<Target>),
    /// An alias of this name.
    Alias(String),
    /// A text.
    Text(&'static str),
}

/// All names of the cluster.
#[derive(Debug, Default)]
pub struct Zone {
    services: BTreeMap<String, BTreeMap<String, ServiceNames>>,
    slices: HashMap<String, BTreeMap<String, SliceNames>>,
    /// slice → its Service.
    slice_services: HashMap<String, String>,
    /// cluster address → `namespace/name`.
    by_cluster_address: HashMap<IpAddr, BTreeSet<String>>,
    /// endpoint address → the Services that it is behind.
    by_endpoint: HashMap<IpAddr, BTreeMap<String, usize>>,
    /// The address at which this is served: `ns.dns` has it.
    pub server: Option<IpAddr>,
}

impl Zone {
    /// A Service was added or changed, or is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, service: Option<ServiceNames>) {
        let key = format!("{namespace}/{name}");
        let of_namespace = self.services.entry(namespace.to_owned()).or_default();
        let old = match &service {
            Some(service) => of_namespace.insert(name.to_owned(), service.clone()),
            None => of_namespace.remove(name),
        };
        if of_namespace.is_empty() {
            self.services.remove(namespace);
        }
        for address in old.into_iter().flat_map(|old| old.addresses) {
            if let Some(keys) = self.by_cluster_address.get_mut(&address) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_cluster_address.remove(&address);
                }
            }
        }
        for address in service.into_iter().flat_map(|new| new.addresses) {
            self.by_cluster_address.entry(address).or_default().insert(key.clone());
        }
    }

    /// The slice with this `namespace/name` was added or changed, or is gone.
    pub fn set_slice(&mut self, key: &str, slice: Option<SliceNames>) {
        if let Some(service) = self.slice_services.remove(key)
            && let Some(of_service) = self.slices.get_mut(&service)
        {
            let old = of_service.remove(key);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
            for endpoint in old.into_iter().flat_map(|old| old.endpoints) {
                self.forget_endpoint(endpoint.address, &service);
            }
        }
        if let Some(slice) = slice {
            for endpoint in &slice.endpoints {
                let services = self.by_endpoint.entry(endpoint.address).or_default();
                *services.entry(slice.service.clone()).or_insert(0) += 1;
            }
            self.slice_services.insert(key.to_owned(), slice.service.clone());
            self.slices.entry(slice.service.clone()).or_default().insert(key.to_owned(), slice);
        }
    }

    fn forget_endpoint(&mut self, address: IpAddr, service: &str) {
        let Some(services) = self.by_endpoint.get_mut(&address) else { return };
        if let Some(count) = services.get_mut(service) {
            *count -= 1;
            if *count == 0 {
                services.remove(service);
            }
        }
        if services.is_empty() {
            self.by_endpoint.remove(&address);
        }
    }

    fn endpoints(&self, key: &str) -> Vec<&EndpointNames> {
        let of_service = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let mut all: Vec<&EndpointNames> = of_service.flat_map(|slice| &slice.endpoints).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Looks up labels, in lower case, of a name below the zone.
    pub fn find(&self, labels: &[&str]) -> Found {
        match labels {
            [] => Found::Apex,
            ["dns-version"] => Found::Text(SCHEMA_VERSION),
            ["ns", "dns"] => {
                Found::Addresses { addresses: self.server.into_iter().collect(), targets: Vec::new() }
            }
            ["svc" | "pod" | "dns"] => Found::Bare,
            [namespace, "svc"] => {
                if self.services.contains_key(*namespace) {
                    Found::Bare
                } else {
                    Found::Nothing
                }
            }
            [_, "pod"] => Found::Bare,
            [address, _, "pod"] => match undashed(address) {
                Some(address) => Found::Addresses { addresses: vec![address], targets: Vec::new() },
                None => Found::Nothing,
            },
            [rest @ .., service, namespace, "svc"] => self.find_service(rest, service, namespace),
            _ => Found::Nothing,
        }
    }

    fn find_service(&self, rest: &[&str], name: &str, namespace: &str) -> Found {
        let Some(service) = self.services.get(namespace).and_then(|services| services.get(name)) else {
            return Found::Nothing;
        };
        if let Some(alias) = &service.alias {
            return if rest.is_empty() { Found::Alias(alias.clone()) } else { Found::Nothing };
        }
        let at =
            Place { name, namespace, service, endpoints: self.endpoints(&format!("{namespace}/{name}")) };
        match rest {
            [] => at.whole(),
            [protocol] if protocol.starts_with('_') => at.protocol(protocol),
            [host] => at.host(host),
            [port, protocol] => at.port(port, protocol),
            _ => Found::Nothing,
        }
    }

    /// The names of an address, as labels below the zone.
    pub fn names_of(&self, address: IpAddr) -> Vec<Vec<String>> {
        let name = |key: &str| {
            let (namespace, name) = key.split_once('/')?;
            Some(vec![name.to_owned(), namespace.to_owned(), "svc".to_owned()])
        };
        if let Some(keys) = self.by_cluster_address.get(&address) {
            return keys.iter().filter_map(|key| name(key)).collect();
        }
        let mut names = Vec::new();
        for key in self.by_endpoint.get(&address).into_iter().flat_map(BTreeMap::keys) {
            for endpoint in self.endpoints(key).into_iter().filter(|endpoint| endpoint.address == address) {
                let mut labels = vec![endpoint.host.clone()];
                labels.extend(name(key).unwrap_or_default());
                names.push(labels);
            }
        }
        names.dedup();
        names
    }
}

/// One Service's part of the zone.
struct Place<'a> {
    name: &'a str,
    namespace: &'a str,
    service: &'a ServiceNames,
    endpoints: Vec<&'a EndpointNames>,
}

impl Place<'_> {
    fn labels(&self, host: Option<&str>) -> Vec<String> {
        host.into_iter().chain([self.name, self.namespace, "svc"]).map(str::to_owned).collect()
    }

    fn whole(&self) -> Found {
        let targets = self.targets(|_| true);
        if !self.service.headless {
            return Found::Addresses { addresses: self.service.addresses.clone(), targets };
        }
        if self.endpoints.is_empty() {
            // The specification wants a headless Service without endpoints to exist.
            return Found::Bare;
        }
        let mut addresses: Vec<IpAddr> = self.endpoints.iter().map(|endpoint| endpoint.address).collect();
        addresses.dedup();
        Found::Addresses { addresses, targets }
    }

    fn host(&self, host: &str) -> Found {
        let here: Vec<&&EndpointNames> =
            self.endpoints.iter().filter(|endpoint| endpoint.host == host).collect();
        if here.is_empty() {
            return Found::Nothing;
        }
        let mut addresses: Vec<IpAddr> = here.iter().map(|endpoint| endpoint.address).collect();
        addresses.dedup();
        let mut targets: Vec<Target> = Vec::new();
        for port in here.iter().flat_map(|endpoint| &endpoint.ports) {
            let labels = self.labels(Some(host));
            targets.push(Target { port: port.number, labels, addresses: addresses.clone() });
        }
        targets.dedup();
        Found::Addresses { addresses, targets }
    }

    fn protocol(&self, protocol: &str) -> Found {
        let known =
            |ports: &[Port]| ports.iter().any(|port| protocol == format!("_{}", port.protocol.word()));
        let any = known(&self.service.ports) || self.endpoints.iter().any(|endpoint| known(&endpoint.ports));
        if any { Found::Bare } else { Found::Nothing }
    }

    fn port(&self, port: &str, protocol: &str) -> Found {
        let (Some(name), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Found::Nothing;
        };
        let targets = self.targets(|port| port.name == name && port.protocol.word() == protocol);
        if targets.is_empty() { Found::Nothing } else { Found::Targets(targets) }
    }

    fn targets(&self, wanted: impl Fn(&Port) -> bool) -> Vec<Target> {
        if !self.service.headless {
            let port = |port: &Port| Target {
                port: port.number,
                labels: self.labels(None),
                addresses: self.service.addresses.clone(),
            };
            return self.service.ports.iter().filter(|port| wanted(port)).map(port).collect();
        }
        let mut targets: Vec<Target> = Vec::new();
        for endpoint in &self.endpoints {
            for port in endpoint.ports.iter().filter(|port| wanted(port)) {
                let labels = self.labels(Some(&endpoint.host));
                let addresses = vec![endpoint.address];
                targets.push(Target { port: port.number, labels, addresses });
            }
        }
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

//! Services and EndpointSlices, parsed once into what the proxy needs.
//!
//! Must not know nftables. An address or port that does not parse is left out: a user's object never stops
//! the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::k8s::api::core::v1::{Service, ServiceSpec};
use api::k8s::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use ipnet::IpNet;

use crate::nft::{Family, Protocol};

/// A Service with this label belongs to another proxy.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// A Service or slice with this label has no cluster address to serve.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The label of a slice that names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// How long a client sticks to its endpoint when the Service does not say, in seconds.
const DEFAULT_AFFINITY_S: u32 = 10_800;

/// A namespace and a name, `namespace/name`.
pub type ServiceKey = String;

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when the Service has one unnamed port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// A word for names in the table: the port's name, or its number when it has none.
    pub fn word(&self) -> String {
        if self.name.is_empty() { self.port.to_string() } else { self.name.clone() }
    }
}

/// What the proxy needs of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// `namespace/name`.
    pub key: ServiceKey,
    /// Cluster addresses, one a family.
    pub cluster_addresses: Vec<IpAddr>,
    /// External addresses and those of load balancers.
    pub external_addresses: Vec<IpAddr>,
    /// Those of load balancers only: source ranges hold for them.
    pub balancer_addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Seconds for which a client sticks to its endpoint; `None`: it does not.
    pub affinity_s: Option<u32>,
    /// Traffic from outside stays on the node that it reached.
    pub external_local: bool,
    /// Traffic from inside stays on its node.
    pub internal_local: bool,
    /// Who may use the load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Where the load balancer asks whether this node has endpoints.
    pub health_check_node_port: Option<u16>,
}

impl ServiceInfo {
    /// Reads a Service; `None` when it is not for this proxy (headless, ExternalName, another proxy's).
    pub fn parse(service: &Service) -> Option<ServiceInfo> {
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|l| l.contains_key(OTHER_PROXY_LABEL) || l.contains_key(HEADLESS_LABEL)) {
            return None;
        }
        let spec = service.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let cluster_addresses = cluster_addresses(spec);
        if kind == "ExternalName" || cluster_addresses.is_empty() {
            return None;
        }
        let balancer_addresses =
            if kind == "LoadBalancer" { balancer_addresses(service) } else { Vec::new() };
        let mut external_addresses: Vec<IpAddr> =
            spec.external_ips.iter().flatten().filter_map(|word| word.parse().ok()).collect();
        external_addresses.extend(&balancer_addresses);
        let from_outside = kind == "NodePort" || kind == "LoadBalancer" || !external_addresses.is_empty();
        let external_local = from_outside && spec.external_traffic_policy.as_deref() == Some("Local");
        let health_check = spec.health_check_node_port.and_then(port_number);
        Some(ServiceInfo {
            key: key(service.metadata.namespace.as_deref(), service.metadata.name.as_deref()?),
            cluster_addresses,
            external_addresses,
            balancer_addresses,
            ports: ports(spec, kind),
            affinity_s: affinity(spec),
            external_local,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            source_ranges: source_ranges(spec),
            health_check_node_port: health_check.filter(|_| external_local && kind == "LoadBalancer"),
        })
    }
}

/// `namespace/name`.
pub fn key(namespace: Option<&str>, name: &str) -> ServiceKey {
    format!("{}/{name}", namespace.unwrap_or_default())
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let words = match &spec.cluster_ips {
        Some(words) if !words.is_empty() => words.as_slice(),
        _ => spec.cluster_ip.as_slice(),
    };
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

fn balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
    // "Proxy" says that packets arrive with the node's address, so the balancer's own is not for us.
    let ours = ingress.into_iter().flatten().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

fn ports(spec: &ServiceSpec, kind: &str) -> Vec<ServicePort> {
    let parse = |port: &api::k8s::api::core::v1::ServicePort| {
        Some(ServicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number).filter(|_| kind != "ClusterIP"),
        })
    };
    spec.ports.iter().flatten().filter_map(parse).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let timeout = config.and_then(|config| config.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    Some(timeout.filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_S))
}

fn source_ranges(spec: &ServiceSpec) -> Vec<IpNet> {
    let words = spec.load_balancer_source_ranges.iter().flatten();
    words.filter_map(|word| word.trim().parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// One endpoint of one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// New connections may go to it.
    pub ready: bool,
    /// It answers, though it may be on its way out.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
    /// The node that it is on.
    pub node: Option<String>,
    /// Zones that should use it.
    pub zones: BTreeSet<String>,
    /// Nodes that should use it.
    pub nodes: BTreeSet<String>,
}

/// Which port of a Service endpoints belong to: its name and protocol.
pub type PortKey = (String, Protocol);

/// The endpoints of one slice, by port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceInfo {
    /// The Service that the slice belongs to.
    pub service: ServiceKey,
    /// Its endpoints.
    pub ports: BTreeMap<PortKey, Vec<Endpoint>>,
}

impl SliceInfo {
    /// Reads a slice; `None` when it belongs to no Service or to a headless one, or holds no addresses.
    pub fn parse(slice: &EndpointSlice) -> Option<SliceInfo> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key(HEADLESS_LABEL) || labels.contains_key(OTHER_PROXY_LABEL) {
            return None;
        }
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let service = key(slice.metadata.namespace.as_deref(), labels.get(SERVICE_NAME_LABEL)?);
        let mut ports: BTreeMap<PortKey, Vec<Endpoint>> = BTreeMap::new();
        for port in slice.ports.iter().flatten() {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            let Some(number) = port.port.and_then(port_number) else { continue };
            let endpoints = slice.endpoints.iter().flatten().filter_map(|e| endpoint(e, number, family));
            ports.entry((port.name.clone().unwrap_or_default(), protocol)).or_default().extend(endpoints);
        }
        Some(SliceInfo { service, ports })
    }
}

fn endpoint(endpoint: &SliceEndpoint, port: u16, family: Family) -> Option<Endpoint> {
    // All addresses of one entry are the same endpoint; consumers use the first.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    (Family::of(address) == family).then(|| Endpoint {
        address,
        port,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
        zones: hints
            .and_then(|h| h.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|z| z.name.clone())
            .collect(),
        nodes: hints
            .and_then(|h| h.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|n| n.name.clone())
            .collect(),
    })
}

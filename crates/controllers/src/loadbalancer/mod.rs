//! Addresses for Services of type LoadBalancer where no cloud gives any: those of the nodes, whose service proxies
//! take the traffic. Watches Services, Nodes and EndpointSlices. Runs only where a cluster is set to do so.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceSpec};
use api::k8s::api::discovery::v1::EndpointSlice;
use client::{Cache, Change, EventKind, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::Context;

/// The class of balancers that this controller makes; Services without a class get it too.
pub const CLASS: &str = "navarch.local/node";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

struct Controller {
    services: Cache<Service>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    reserved: Vec<u16>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(service) = self.services.get_key(key) else { return Ok(Plan::none()) };
        let slices = self.slices.namespace(service.namespace());
        Ok(plan(&service, &self.services.list(), &self.nodes.list(), &slices, &self.reserved))
    }
}

fn is_ours(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS)
    })
}

/// The ports that a Service takes on every node.
fn ports(service: &Service) -> BTreeSet<(String, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port)).collect()
}

/// Why a Service gets no address, if it does not: the ports are the nodes' own, or an older Service's.
fn refusal(service: &Service, all: &[Arc<Service>], reserved: &[u16]) -> Option<String> {
    let wanted = ports(service);
    let taken = |number: i32| u16::try_from(number).is_ok_and(|number| reserved.contains(&number));
    if let Some((_, port)) = wanted.iter().find(|(protocol, port)| protocol == "TCP" && taken(*port)) {
        return Some(format!("port {port} is the nodes' own; give the Service another port"));
    }
    let age = |service: &Service| {
        (service.metadata.creation_timestamp.as_ref().map(|time| time.0), service.uid().to_owned())
    };
    let mut older = all.iter().filter(|other| {
        is_ours(other) && other.uid() != service.uid() && !other.is_deleting() && age(other) < age(service)
    });
    let rival = older.find(|other| !ports(other).is_disjoint(&wanted))?;
    Some(format!("Service {}/{} has the same port on the nodes", rival.namespace(), rival.name()))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    ready && !node.is_deleting() && node.label(EXCLUDED).is_none()
}

fn addresses(node: &Node) -> impl Iterator<Item = &str> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.as_str())
}

/// Nodes with a ready endpoint of a Service.
fn with_endpoints<'a>(service: &Service, slices: &'a [Arc<EndpointSlice>]) -> BTreeSet<&'a str> {
    let own = slices.iter().filter(|slice| slice.label(SERVICE_NAME) == Some(service.name()));
    let endpoints = own.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
    });
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}

fn fits(spec: &ServiceSpec, address: &str) -> bool {
    let families = spec.ip_families.iter().flatten();
    let four = !address.contains(':');
    families.map(|family| family == "IPv4").any(|wanted| wanted == four) || spec.ip_families.is_none()
}

fn plan(
    service: &Service,
    all: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    reserved: &[u16],
) -> Plan {
    let mut plan = Plan::none();
    let Some(spec) = service.spec.as_ref().filter(|_| is_ours(service) && !service.is_deleting()) else {
        return plan;
    };
    let refused = refusal(service, all, reserved);
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let hosts = if local { with_endpoints(service, slices) } else { BTreeSet::new() };
    let mut ingress: Vec<LoadBalancerIngress> = Vec::new();
    let serving = nodes.iter().filter(|node| is_ready(node) && (!local || hosts.contains(node.name())));
    for address in serving.flat_map(|node| addresses(node)).filter(|address| fits(spec, address)) {
        if refused.is_none() {
            let (ip, ip_mode) = (Some(address.to_owned()), Some("VIP".to_owned()));
            ingress.push(LoadBalancerIngress { ip, ip_mode, ..LoadBalancerIngress::default() });
        }
    }
    ingress.sort_by(|a, b| a.ip.cmp(&b.ip));
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let now: Vec<Option<&str>> = balancer
        .iter()
        .flat_map(|status| status.ingress.iter().flatten())
        .map(|one| one.ip.as_deref())
        .collect();
    let wanted: Vec<Option<&str>> = ingress.iter().map(|one| one.ip.as_deref()).collect();
    if let Some(why) = refused {
        plan.event(service, EventKind::Warning, "PortTaken", &why);
    }
    if now == wanted {
        return plan;
    }
    let mut changed = service.clone();
    let ingress = (!ingress.is_empty()).then_some(ingress);
    changed.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    plan.update_status(&changed);
    plan
}

/// What of a Node matters here.
fn facts(node: &Node) -> (bool, Vec<String>) {
    (is_ready(node), addresses(node).map(str::to_owned).collect())
}

/// Starts the controller, if it is set.
pub fn start(context: &Context) {
    let Some(reserved) = context.config.node_balancer_reserved.clone() else { return };
    let mut setup = context.setup("service-controller", "navarch-service-balancer");
    let services = setup.watch::<Service>();
    let (nodes, slices) = (setup.read::<Node>(), setup.read::<EndpointSlice>());
    let ours = |services: &Cache<Service>| -> Vec<Key> {
        services.list().iter().filter(|one| is_ours(one)).map(|one| Key::of(&**one)).collect()
    };
    // A Service that goes, or takes another port, may make room for another.
    let cache = services.cache().clone();
    setup.map(&services, move |change| {
        if is_ours(change.object()) || change.old().is_some_and(|old| is_ours(old)) {
            let mut keys = ours(&cache);
            keys.push(Key::of(&**change.object()));
            return keys;
        }
        Vec::new()
    });
    let cache = services.cache().clone();
    setup.map(&nodes, move |change| match change {
        Change::Modified { old, new } if facts(old) == facts(new) => Vec::new(),
        _ => ours(&cache),
    });
    let cache = services.cache().clone();
    setup.map(&slices, move |change| {
        let slice = change.object();
        let key = slice.label(SERVICE_NAME).map(|name| Key::new(slice.namespace(), name));
        key.into_iter().filter(|key| cache.get_key(key).is_some_and(|one| is_ours(&one))).collect()
    });
    let controller = Controller {
        services: services.cache().clone(),
        nodes: nodes.cache().clone(),
        slices: slices.cache().clone(),
        reserved,
    };
    setup.start(Arc::new(controller), 1);
}

#[cfg(test)]
mod tests {
    use api::wire::Wire;
    use client::Step;
    use serde_json::{Value, json};

    use super::*;

    fn of<K: Wire>(value: Value) -> Arc<K> {
        Arc::new(K::from_tree(&value).expect("an object"))
    }

    fn service(name: &str, made: &str, port: i32, policy: &str) -> Arc<Service> {
        of(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": made},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "externalTrafficPolicy": policy,
                "ports": [{"port": port, "protocol": "TCP"}]},
        }))
    }

    fn node(name: &str, ip: &str, ready: &str) -> Arc<Node> {
        of(json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]},
        }))
    }

    fn check(service: &Service, all: &[Arc<Service>]) -> String {
        let nodes = [
            node("b", "192.0.2.2", "True"),
            node("a", "192.0.2.1", "True"),
            node("c", "192.0.2.3", "Unknown"),
        ];
        let slices = [of(json!({
            "metadata": {"name": "s", "namespace": "n", "labels": {SERVICE_NAME: "local"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "b", "conditions": {"ready": true}}],
        }))];
        let made = plan(service, all, &nodes, &slices, &[6443]);
        let show = |step: &&Step| match step {
            Step::Update { object, .. } => object["status"]["loadBalancer"]["ingress"]
                .as_array()
                .map(|list| {
                    list.iter().map(|one| one["ip"].as_str().unwrap_or("?")).collect::<Vec<_>>().join(",")
                })
                .unwrap_or_default(),
            other => other.summary(),
        };
        made.steps().iter().map(show).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn ready_nodes_serve_and_the_older_keeps_its_port() {
        let first = service("first", "2030-01-01T00:00:00Z", 80, "Cluster");
        let second = service("second", "2030-01-02T00:00:00Z", 80, "Cluster");
        let all = [first.clone(), second.clone()];
        assert_eq!(check(&first, &all), "192.0.2.1,192.0.2.2");
        assert!(check(&second, &all).contains("PortTaken"), "{}", check(&second, &all));
        assert_eq!(check(&service("local", "2030-01-03T00:00:00Z", 81, "Local"), &all), "192.0.2.2");
        let own = service("own", "2030-01-03T00:00:00Z", 6443, "Cluster");
        assert!(check(&own, &all).contains("PortTaken"));
        let mut other = (*first).clone();
        other.spec.get_or_insert_default().load_balancer_class = Some("cloud/x".to_owned());
        assert_eq!(check(&other, &all), "");
    }
}

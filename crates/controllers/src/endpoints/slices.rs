//! The plan for one Service's EndpointSlices: few writes, at most 100 endpoints a slice.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{ObjectReference, Pod, Service};
use api::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Meta, Plan};

use super::facts;
use crate::owner::{controller_ref, is_controlled_by};
use crate::pods;

/// The value of the managed-by label.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice at most.
pub const MAX_ENDPOINTS: usize = 100;

/// Slices of one set of ports, as they should be.
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// What to do about one Service's slices. `zone` names a node's zone.
pub fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::none();
    let ours = |slice: &&Arc<EndpointSlice>| slice.label(facts::MANAGED_BY) == Some(MANAGER);
    let existing: Vec<&Arc<EndpointSlice>> = existing.iter().filter(ours).collect();
    let families = families(service);
    for slice in existing.iter().filter(|slice| !families.contains(&slice.address_type.as_str())) {
        plan.delete(&***slice);
    }
    for family in families {
        let own: Vec<&EndpointSlice> =
            existing.iter().filter(|slice| slice.address_type == family).map(|slice| &***slice).collect();
        family_plan(service, pods, family, &own, zone, &mut plan);
    }
    plan
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten();
    let mut families: Vec<&str> = listed.map(|text| if text == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

fn family_plan(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    existing: &[&EndpointSlice],
    zone: &dyn Fn(&str) -> Option<String>,
    plan: &mut Plan,
) {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| facts::belongs(pod, true)) {
        let endpoint = endpoint(service, pod, family, zone);
        let ports = ports(service, pod);
        let group = groups.entry(port_key(&ports)).or_insert(Group { ports, endpoints: Vec::new() });
        if !endpoint.addresses.is_empty() {
            group.endpoints.push(endpoint);
        }
    }
    groups.retain(|_, group| !group.endpoints.is_empty());
    if groups.is_empty() {
        // A Service without endpoints keeps one empty slice, so that readers tell "none" from "not yet".
        groups.insert(port_key(&[]), Group { ports: Vec::new(), endpoints: Vec::new() });
    }
    let template = Template { service, family, labels: labels(service, MANAGER) };
    reconcile(&template, groups.into_values().map(|group| (group.ports, group.endpoints)), existing, plan);
}

/// What all slices of a Service have in common.
pub struct Template<'a> {
    pub service: &'a Service,
    pub family: &'a str,
    pub labels: BTreeMap<String, String>,
}

/// Makes slices hold exactly these groups of endpoints, reusing those that exist.
pub fn reconcile(
    template: &Template<'_>,
    groups: impl Iterator<Item = (Vec<EndpointPort>, Vec<Endpoint>)>,
    existing: &[&EndpointSlice],
    plan: &mut Plan,
) {
    let mut unused: Vec<&EndpointSlice> = Vec::new();
    let mut by_ports: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        if is_controlled_by(*slice, template.service.uid()) && !slice.is_deleting() {
            let key = port_key(slice.ports.as_deref().unwrap_or(&[]));
            by_ports.entry(key).or_default().push(slice);
        } else if !slice.is_deleting() {
            unused.push(slice);
        }
    }
    for (ports, endpoints) in groups {
        let own = by_ports.remove(&port_key(&ports)).unwrap_or_default();
        fill(template, ports, endpoints, &own, plan);
    }
    for slice in by_ports.into_values().flatten().chain(unused) {
        plan.delete(slice);
    }
}

/// Who an endpoint is, whatever its state.
fn identity(endpoint: &Endpoint) -> (Vec<String>, String) {
    let target = endpoint.target_ref.as_ref();
    let uid = target.and_then(|target| target.uid.clone()).unwrap_or_default();
    (endpoint.addresses.clone(), uid)
}

fn fill(
    template: &Template<'_>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    existing: &[&EndpointSlice],
    plan: &mut Plan,
) {
    let mut wanted: BTreeMap<(Vec<String>, String), Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let empty = wanted.is_empty();
    let mut kept: Vec<(&EndpointSlice, Vec<Endpoint>)> = Vec::new();
    for slice in existing {
        let stay = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint)));
        kept.push((slice, stay.take(MAX_ENDPOINTS).collect()));
    }
    // Fuller slices first: the others may become empty and go.
    kept.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.name().cmp(b.0.name())));
    let mut rest = wanted.into_values();
    for (_, list) in &mut kept {
        let room = MAX_ENDPOINTS - list.len();
        list.extend(rest.by_ref().take(room));
    }
    let mut placeholder = empty;
    for (slice, list) in kept {
        if list.is_empty() && !std::mem::take(&mut placeholder) {
            plan.delete(slice);
            continue;
        }
        let mut next = slice.clone();
        next.endpoints = Some(list);
        next.metadata.labels = Some(template.labels.clone());
        if !alike(&next, slice) {
            plan.update(&next);
        }
    }
    loop {
        let list: Vec<Endpoint> = rest.by_ref().take(MAX_ENDPOINTS).collect();
        if list.is_empty() && !std::mem::take(&mut placeholder) {
            return;
        }
        plan.create(&new_slice(template, ports.clone(), list));
    }
}

fn alike(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    let sorted = |slice: &EndpointSlice| {
        let mut list = slice.endpoints.clone().unwrap_or_default();
        for endpoint in &mut list {
            // Hints are not ours to judge.
            endpoint.hints = None;
        }
        list.sort_by_key(identity);
        list
    };
    a.metadata.labels == b.metadata.labels && sorted(a) == sorted(b)
}

fn new_slice(template: &Template<'_>, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(pods::name_prefix(template.service.name())),
            namespace: template.service.metadata.namespace.clone(),
            labels: Some(template.labels.clone()),
            owner_references: Some(vec![controller_ref(template.service)]),
            ..ObjectMeta::default()
        },
        address_type: template.family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}

/// The Service's labels and those that say whose slice it is.
pub fn labels(service: &Service, manager: &str) -> BTreeMap<String, String> {
    let reserved = [facts::SERVICE_NAME, facts::MANAGED_BY, facts::HEADLESS];
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !reserved.contains(&key.as_str()));
    if facts::is_headless(service) {
        labels.insert(facts::HEADLESS.to_owned(), String::new());
    }
    labels.insert(facts::SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(facts::MANAGED_BY.to_owned(), manager.to_owned());
    labels
}

fn port_key(ports: &[EndpointPort]) -> String {
    let text = |port: &EndpointPort| {
        let (name, protocol) =
            (port.name.as_deref().unwrap_or(""), port.protocol.as_deref().unwrap_or("TCP"));
        let app = port.app_protocol.as_deref().unwrap_or("");
        format!("{name}/{protocol}/{}/{app}", port.port.unwrap_or(0))
    };
    let mut texts: Vec<String> = ports.iter().map(text).collect();
    texts.sort();
    texts.join(",")
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let one = |port: &api::k8s::api::core::v1::ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(facts::port_number(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.filter_map(one).collect()
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: &dyn Fn(&str) -> Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_deleting();
    let ready = facts::publishes_not_ready(service) || (serving && !terminating);
    let node = pods::node(pod);
    let addresses = facts::addresses(pod).into_iter().filter(|ip| ip.is_ipv6() == (family == "IPv6"));
    Endpoint {
        addresses: addresses.map(|ip| ip.to_string()).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: facts::hostname(service, pod),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: zone(node),
        ..Endpoint::default()
    }
}

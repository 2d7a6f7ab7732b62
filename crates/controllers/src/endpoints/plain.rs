//! The plan for one Service's Endpoints object.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Meta, Plan};

use super::facts;
use crate::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one Endpoints object at most.
const MAX_ADDRESSES: usize = 1_000;

/// What to do about one Service's Endpoints.
pub fn plan(service: &Service, pods: &[Arc<Pod>], known: Option<&Endpoints>) -> Plan {
    let mut plan = Plan::none();
    let (subsets, truncated) = truncate(subsets(service, pods));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(facts::HEADLESS);
    if facts::is_headless(service) {
        labels.insert(facts::HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = known.and_then(|known| known.metadata.annotations.clone()).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = (!annotations.is_empty()).then_some(annotations);
    match known {
        None => {
            let metadata = ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                annotations,
                ..ObjectMeta::default()
            };
            plan.create(&Endpoints { metadata, subsets });
        }
        Some(known) => {
            let mut next = known.clone();
            next.metadata.labels = Some(labels);
            next.metadata.annotations = annotations;
            next.subsets = subsets;
            if without_versions(&next) != without_versions(known) {
                plan.update(&next);
            }
        }
    }
    plan
}

fn without_versions(endpoints: &Endpoints) -> Endpoints {
    let mut endpoints = endpoints.clone();
    for subset in endpoints.subsets.iter_mut().flatten() {
        for address in subset.addresses.iter_mut().chain(&mut subset.not_ready_addresses).flatten() {
            if let Some(target) = &mut address.target_ref {
                target.resource_version = None;
            }
        }
    }
    if endpoints.subsets.as_ref().is_some_and(Vec::is_empty) {
        endpoints.subsets = None;
    }
    endpoints
}

type Ports = BTreeMap<(String, String, i32), EndpointPort>;
type Address = (String, String);

/// Addresses with the same ports, each in one subset, as upstream's RepackSubsets leaves them.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.as_ref();
    let ports: Vec<_> = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten().collect();
    let mut groups: BTreeMap<
        Vec<(String, String, i32)>,
        (Ports, BTreeMap<Address, (EndpointAddress, bool)>),
    > = BTreeMap::new();
    for pod in pods.iter().filter(|pod| facts::belongs(pod, facts::publishes_not_ready(service))) {
        let Some(address) = address(service, pod) else { continue };
        let mut own = Ports::new();
        for port in &ports {
            let Some(number) = facts::port_number(pod, port) else { continue };
            let name = port.name.clone().unwrap_or_default();
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let entry = EndpointPort {
                name: (!name.is_empty()).then(|| name.clone()),
                port: number,
                protocol: Some(protocol.clone()),
                app_protocol: port.app_protocol.clone(),
            };
            own.insert((name, protocol, number), entry);
        }
        if own.is_empty() && !(ports.is_empty() && facts::is_headless(service)) {
            continue;
        }
        let ready = facts::publishes_not_ready(service) || pods::is_ready(pod);
        let key = own.keys().cloned().collect();
        let group = groups.entry(key).or_insert_with(|| (own, BTreeMap::new()));
        group.1.insert((address.ip.clone(), pod.uid().to_owned()), (address, ready));
    }
    let subset = |(ports, addresses): (Ports, BTreeMap<Address, (EndpointAddress, bool)>)| {
        let pick = |wanted: bool| {
            let list: Vec<EndpointAddress> = addresses
                .values()
                .filter(|(_, ready)| *ready == wanted)
                .map(|(address, _)| address.clone())
                .collect();
            (!list.is_empty()).then_some(list)
        };
        let ports: Vec<EndpointPort> = ports.into_values().collect();
        EndpointSubset {
            addresses: pick(true),
            not_ready_addresses: pick(false),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    groups.into_values().map(subset).collect()
}

fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let v6 = families.and_then(|list| list.first()).is_some_and(|family| family == "IPv6");
    let ip = facts::addresses(pod).into_iter().find(|ip| ip.is_ipv6() == v6)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: facts::hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Cuts what is too much: not-ready addresses first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let all: usize = ready + subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum::<usize>();
    if all <= MAX_ADDRESSES {
        return (subsets, false);
    }
    let (mut room_ready, mut room_other) = (MAX_ADDRESSES, MAX_ADDRESSES.saturating_sub(ready));
    for subset in &mut subsets {
        for (list, room) in
            [(&mut subset.addresses, &mut room_ready), (&mut subset.not_ready_addresses, &mut room_other)]
        {
            if let Some(entries) = list {
                entries.truncate(*room);
                *room -= entries.len();
                if entries.is_empty() {
                    *list = None;
                }
            }
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, true)
}

//! The plan for slices that mirror an Endpoints object written by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use api::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use client::{Meta, Plan};

use super::facts;
use super::slices::{self, Template};

/// The value of the managed-by label.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored at most.
const MAX_ADDRESSES: usize = 1_000;

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
        && endpoints.label(SKIP) != Some("true")
        && endpoints.annotation(LEADER).is_none()
        && !endpoints.is_deleting()
}

/// What to do about the mirrors of one Endpoints object.
pub fn plan(
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::none();
    let ours = |slice: &&Arc<EndpointSlice>| slice.label(facts::MANAGED_BY) == Some(MANAGER);
    let existing: Vec<&EndpointSlice> = existing.iter().filter(ours).map(|slice| &**slice).collect();
    let pair = service.zip(endpoints).filter(|(service, endpoints)| is_mirrored(service, endpoints));
    let Some((service, endpoints)) = pair else {
        for slice in existing {
            plan.delete(slice);
        }
        return plan;
    };
    for family in ["IPv4", "IPv6"] {
        let own: Vec<&EndpointSlice> =
            existing.iter().filter(|s| s.address_type == family).copied().collect();
        let subsets = endpoints.subsets.iter().flatten();
        let groups = subsets.map(|subset| (ports(subset), list(subset, family)));
        let groups: Vec<_> = groups.filter(|(_, endpoints)| !endpoints.is_empty()).collect();
        let mut labels = slices::labels(service, MANAGER);
        labels.extend(endpoints.metadata.labels.clone().unwrap_or_default());
        labels.insert(facts::MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels.insert(facts::SERVICE_NAME.to_owned(), service.name().to_owned());
        labels.remove("endpoints.kubernetes.io/managed-by");
        let template = Template { service, family, labels };
        slices::reconcile(&template, groups.into_iter(), &own, &mut plan);
    }
    plan
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let one = |port: &api::k8s::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(one).collect()
}

fn list(subset: &EndpointSubset, family: &str) -> Vec<Endpoint> {
    let fits = |address: &&EndpointAddress| {
        let ip: Option<std::net::IpAddr> = address.ip.parse().ok();
        ip.is_some_and(|ip| ip.is_ipv6() == (family == "IPv6"))
    };
    let one = |address: &EndpointAddress, ready: bool| Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    let ready = subset.addresses.iter().flatten().filter(fits).map(|address| one(address, true));
    let other = subset.not_ready_addresses.iter().flatten().filter(fits).map(|address| one(address, false));
    ready.chain(other).take(MAX_ADDRESSES).collect()
}

//! Which pods a Service selects, what they serve, and the labels of EndpointSlices.

use api::k8s::api::core::v1::{Pod, Service, ServicePort};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::labels::Selector;
use client::Meta;

use crate::pods;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service whose endpoints follow from pods; of all others, one that selects nothing.
pub fn selector(service: &Service) -> Selector {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
    let selector = spec.and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    selector.map_or_else(Selector::nothing, Selector::from_map)
}

/// True when a change of the pod cannot change any endpoint.
pub fn serves_alike(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ips.clone(), status.pod_ip.clone()));
    let names = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.hostname.clone(), spec.subdomain.clone()));
    old.uid() == new.uid()
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::phase(old) == pods::phase(new)
        && old.is_deleting() == new.is_deleting()
        && pods::node(old) == pods::node(new)
        && old.meta().labels == new.meta().labels
        && ips(old) == ips(new)
        && names(old) == names(new)
}

/// True when the pod has an address and has not ended; pods that are going count only if asked for.
pub fn belongs(pod: &Pod, with_terminating: bool) -> bool {
    if pods::is_finished(pod) || (pod.is_deleting() && !with_terminating) {
        return false;
    }
    !addresses(pod).is_empty()
}

/// The pod's addresses.
pub fn addresses(pod: &Pod) -> Vec<std::net::IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut texts: Vec<&str> = listed.collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref());
    }
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

pub fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("");
    ip.is_empty() || ip == "None"
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The host name DNS knows the pod by, below this Service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name())).then(|| name.to_owned())
}

/// The port a pod serves a Service's port on.
pub fn port_number(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(number)) if *number == 0 => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let fits = |candidate: &&api::k8s::api::core::v1::ContainerPort| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.into_iter().find(fits).map(|found| found.container_port)
        }
    }
}

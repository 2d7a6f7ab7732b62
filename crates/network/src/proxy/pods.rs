//! The host ports of a pod.
//!
//! Must not know nftables.

use std::net::IpAddr;

use api::k8s::api::core::v1::{Container, Pod, PodSpec};

use super::plan::HostPort;
use crate::nft::{Family, Protocol};

/// The ports of its node that a pod claims; none for a pod that has ended or lives on the node's own network.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return Vec::new() };
    if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let listed = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let mut addresses: Vec<IpAddr> = listed.filter_map(|word| word.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_ref().and_then(|word| word.parse::<IpAddr>().ok()));
    }
    let mut found = Vec::new();
    for port in containers(spec).flat_map(|container| container.ports.iter().flatten()) {
        let number =
            |port: Option<i32>| port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let Some(host_port) = number(port.host_port) else { continue };
        let Some(pod_port) = number(Some(port.container_port)) else { continue };
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let host_address: Option<IpAddr> = port.host_ip.as_ref().and_then(|word| word.parse().ok());
        let host_address = host_address.filter(|address| !address.is_unspecified());
        for pod_address in addresses.iter().copied() {
            if host_address.is_none_or(|host| Family::of(host) == Family::of(pod_address)) {
                found.push(HostPort { protocol, host_address, host_port, pod_address, pod_port });
            }
        }
    }
    found
}

/// The containers that run beside each other.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always")))
}

#[cfg(test)]
mod tests {
    use super::*;

    use api::wire::Wire;

    #[test]
    fn a_running_pods_ports() {
        let yaml = |network: &str, phase: &str| {
            format!(
                "metadata: {{name: p}}\nspec:\n  hostNetwork: {network}\n  containers:\n  - name: a\n    ports:\n    \
                 - {{containerPort: 80, hostPort: 8080, hostIP: 0.0.0.0}}\n    \
                 - {{containerPort: 53, hostPort: 5353, protocol: UDP, hostIP: 127.0.0.1}}\n    \
                 - {{containerPort: 90}}\nstatus: {{phase: {phase}, podIP: 10.0.0.5}}\n"
            )
        };
        let ports =
            |text: String| host_ports(&Pod::from_tree(&serde_saphyr::from_str(&text).unwrap()).unwrap());
        let found = ports(yaml("false", "Running"));
        let show: Vec<_> =
            found.iter().map(|p| (p.host_address, p.host_port, p.pod_port, p.protocol)).collect();
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(show, [(None, 8080, 80, Protocol::Tcp), (Some(local), 5353, 53, Protocol::Udp)]);
        assert!(ports(yaml("true", "Running")).is_empty());
        assert!(ports(yaml("false", "Succeeded")).is_empty());
    }
}

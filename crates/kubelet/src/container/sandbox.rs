//! A pod's sandbox in the runtime's terms.
//!
//! Must not know how it is run.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Pod, ResourceRequirements};
use runtime::cri::messages as m;

use super::{SpecError, resources, security};
use crate::amount;
use crate::pods::observed::keys;
use crate::pods::pod::PodExt;

/// Where the runtime writes a pod's logs.
pub fn log_dir(root: &str, pod: &Pod) -> String {
    format!("{root}/{}_{}_{}", pod.namespace(), pod.name(), pod.uid())
}

/// What a sandbox is made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// How many sandboxes came before.
    pub attempt: u32,
    /// Its host name.
    pub hostname: &'a str,
    /// Its name resolution.
    pub dns: m::DnsConfig,
    /// The directory of all pods' logs.
    pub log_root: &'a str,
    /// Its control group, as the runtime is told.
    pub cgroup_parent: String,
    /// Resources as admitted.
    pub allocated: &'a BTreeMap<String, ResourceRequirements>,
    /// Node-wide settings.
    pub defaults: &'a security::Defaults,
}

/// The sandbox's configuration.
pub fn config(inputs: &Inputs<'_>) -> Result<m::PodSandboxConfig, SpecError> {
    let pod = inputs.pod;
    let spec = pod.spec();
    let sysctls =
        spec.security_context.as_ref().and_then(|security| security.sysctls.clone()).unwrap_or_default();
    let (cpu_request, cpu_limit) = resources::pod_total(pod, inputs.allocated, "cpu");
    let (_, memory) = resources::pod_total(pod, inputs.allocated, "memory");
    let total = m::LinuxContainerResources {
        cpu_period: amount::CPU_PERIOD_US,
        cpu_quota: amount::quota(cpu_limit.unwrap_or(0)),
        cpu_shares: amount::shares(cpu_request),
        memory_limit_in_bytes: memory.unwrap_or(0) / 1000,
        ..m::LinuxContainerResources::default()
    };
    let linux = m::LinuxPodSandboxConfig {
        cgroup_parent: inputs.cgroup_parent.clone(),
        security_context: Some(security::sandbox(pod, inputs.defaults)?),
        sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        overhead: None,
        resources: Some(total),
    };
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    Ok(m::PodSandboxConfig {
        metadata: Some(m::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt: inputs.attempt,
        }),
        // With the node's network the node's host name holds.
        hostname: if pod.host_network() { String::new() } else { inputs.hostname.to_owned() },
        log_directory: log_dir(inputs.log_root, pod),
        dns_config: Some(inputs.dns.clone()),
        port_mappings: if pod.host_network() { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(linux),
    })
}

/// The labels by which a pod's things in the runtime are found.
pub fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    [
        (keys::POD_NAME.to_owned(), pod.name().to_owned()),
        (keys::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (keys::POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

fn port_mappings(pod: &Pod) -> Vec<m::PortMapping> {
    let sidecars = pod.inits().iter().filter(|container| crate::pods::pod::is_sidecar(container));
    let ports = pod.apps().iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => m::Protocol::Udp,
                Some("SCTP") => m::Protocol::Sctp,
                _ => m::Protocol::Tcp,
            };
            m::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or(0),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            }
        })
        .collect()
}

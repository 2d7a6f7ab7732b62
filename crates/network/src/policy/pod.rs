//! What policies need to know of a pod, and no more: every node keeps it of all pods.

use std::net::IpAddr;

use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use api::wire::Wire;
use client::Meta;
use serde::Deserialize;

use crate::nft::Protocol;

/// A pod.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    meta: ObjectMeta,
    /// Its node; empty while unbound.
    pub node: Box<str>,
    /// Its addresses; none while unknown, on its node's own network, or when it has ended.
    pub addresses: Box<[IpAddr]>,
    /// Its named ports.
    pub ports: Box<[(Box<str>, Protocol, u16)]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    name: Box<str>,
    container_port: i32,
    protocol: Option<Box<str>>,
}

#[derive(Deserialize)]
struct RawContainer {
    #[serde(default)]
    ports: Option<Vec<RawPort>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Box<str>,
    host_network: bool,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize)]
struct RawAddress {
    ip: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    phase: Box<str>,
    #[serde(rename = "podIPs")]
    addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

impl Wire for PodFacts {
    fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Raw { metadata, spec, status } = serde_json::from_slice(text)?;
        let meta = ObjectMeta {
            name: Some(metadata.name),
            namespace: Some(metadata.namespace),
            resource_version: Some(metadata.resource_version),
            labels: metadata.labels,
            ..ObjectMeta::default()
        };
        let absent = spec.host_network || matches!(&*status.phase, "Succeeded" | "Failed");
        let addresses = status.addresses.iter().filter_map(|address| address.ip.parse().ok());
        let containers = spec.containers.into_iter().chain(spec.init_containers);
        let ports = containers.flat_map(|one| one.ports.unwrap_or_default()).filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            let number = u16::try_from(port.container_port).ok()?;
            (!port.name.is_empty()).then_some((port.name, protocol, number))
        });
        Ok(PodFacts {
            meta,
            node: spec.node_name,
            addresses: if absent { Box::default() } else { addresses.collect() },
            ports: ports.collect(),
        })
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&serde_json::json!({"metadata": self.meta}))
    }
}

impl Meta for PodFacts {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl PodFacts {
    /// The number of a named port.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.ports.iter().find(|port| &*port.0 == name && port.1 == protocol).map(|port| port.2)
    }
}

//! From a pod's specification to the runtime's: environment, security, resources, names, files of its own.
//!
//! Must not know when a container is started, nor talk to anything: the inputs are gathered before.

pub mod config;
pub mod env;
pub mod fields;
pub mod files;
pub mod resources;
pub mod sandbox;
pub mod security;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use crate::pods::pod::PodExt;

/// Why a container or sandbox cannot be described to the runtime; the text goes into the status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A config map that must exist does not.
    #[error("configmap {name:?} not found")]
    NoConfigMap {
        /// Its name.
        name: String,
    },
    /// A secret that must exist does not.
    #[error("secret {name:?} not found")]
    NoSecret {
        /// Its name.
        name: String,
    },
    /// A key that must exist does not.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A field that cannot be referred to.
    #[error("unsupported fieldPath: {path}")]
    Field {
        /// The path.
        path: String,
    },
    /// A resource that cannot be referred to.
    #[error("unsupported container resource : {resource}")]
    Resource {
        /// The resource.
        resource: String,
    },
    /// A reference to a container that the pod does not have.
    #[error("container {name} not found")]
    NoContainer {
        /// Its name.
        name: String,
    },
    /// The image would run as root where that is forbidden.
    #[error("container has runAsNonRoot and {what} (pod: \"{pod}\", container: {container})")]
    Root {
        /// What would make it root.
        what: String,
        /// `name_namespace(uid)`.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// A seccomp profile that names nothing.
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    Seccomp,
    /// A volume that the pod does not have.
    #[error("volume {name:?} of container {container:?} is not ready")]
    NoVolume {
        /// The volume.
        name: String,
        /// The container.
        container: String,
    },
    /// A subPath that cannot be used.
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}")]
    SubPath {
        /// The mount.
        mount: String,
        /// The container.
        container: String,
    },
    /// Something of the node's own failed.
    #[error("{0}")]
    Node(String),
}

/// Objects that a pod refers to, by name; `None` = looked for and absent.
#[derive(Clone, Debug, Default)]
pub struct Referenced {
    /// Config maps.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Services whose variables the pod gets.
    pub services: Vec<Arc<Service>>,
}

/// Names of config maps and secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Config maps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// Every config map and secret that a pod refers to.
pub fn references(pod: &Pod) -> Names {
    let mut names = Names::default();
    for container in pod.slots().into_iter().filter_map(|slot| pod.container(slot)) {
        container_references(&container, &mut names);
    }
    for volume in pod.spec().volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        names.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().filter_map(|projected| projected.sources.as_ref()).flatten() {
            names.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            names.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    names.secrets.extend(pod.spec().image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    names.config_maps.remove("");
    names.secrets.remove("");
    names
}

fn container_references(container: &Container, names: &mut Names) {
    for source in container.env_from.iter().flatten() {
        names.config_maps.extend(source.config_map_ref.iter().map(|source| source.name.clone()));
        names.secrets.extend(source.secret_ref.iter().map(|source| source.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        names.config_maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
        names.secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
    }
}

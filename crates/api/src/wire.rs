//! Typed objects to and from JSON text, compiled once for the whole program.
//!
//! `serde_json::from_slice::<Pod>` is compiled anew in every crate that calls it, with all the types below a pod: that
//! was a third of the build. The functions here are plain ones, compiled in this crate alone. Must not know where
//! the text comes from.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as aggregation;
use serde_json::{Error, Value};

/// A value with a JSON form.
pub trait Wire: Sized {
    /// Reads JSON text; an error when it is no JSON or of another shape.
    fn from_json(text: &[u8]) -> Result<Self, Error>;
    /// The JSON text.
    fn to_json(&self) -> Result<Vec<u8>, Error>;
    /// Reads a JSON tree.
    fn from_tree(tree: &Value) -> Result<Self, Error> {
        Self::from_json(&serde_json::to_vec(tree)?)
    }
    /// The JSON tree.
    fn to_tree(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.to_json()?)
    }
}

/// Implements [`Wire`] for types that serde knows.
#[macro_export]
macro_rules! wire {
    ($($name:ty),* $(,)?) => {$(
        impl $crate::wire::Wire for $name {
            #[inline(never)]
            fn from_json(text: &[u8]) -> Result<Self, ::serde_json::Error> {
                ::serde_json::from_slice(text)
            }

            #[inline(never)]
            fn to_json(&self) -> Result<Vec<u8>, ::serde_json::Error> {
                ::serde_json::to_vec(self)
            }
        }
    )*};
}

wire! {
    Value,
    admission::MutatingAdmissionPolicy, admission::MutatingAdmissionPolicyBinding,
    admission::MutatingWebhookConfiguration, admission::ValidatingAdmissionPolicy,
    admission::ValidatingAdmissionPolicyBinding, admission::ValidatingWebhookConfiguration,
    aggregation::APIService, apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet,
    apps::StatefulSet, authentication::TokenRequest, authentication::TokenReview,
    authorization::SelfSubjectAccessReview, authorization::SubjectAccessReview,
    autoscaling::HorizontalPodAutoscaler, autoscaling_v1::Scale, batch::CronJob, batch::Job,
    certificates::CertificateSigningRequest, coordination::Lease, core::Binding, core::ConfigMap, core::Endpoints,
    core::Event, core::LimitRange, core::Namespace, core::Node, core::NodeStatus, core::PersistentVolume,
    core::PersistentVolumeClaim, core::Pod, core::PodStatus, core::PodTemplate, core::PodTemplateSpec,
    core::ReplicationController, core::ResourceQuota, core::Secret, core::Service, core::ServiceAccount,
    discovery::EndpointSlice, events::Event, extensions::CustomResourceDefinition, networking::IPAddress,
    networking::Ingress, networking::IngressClass, networking::NetworkPolicy, networking::ServiceCIDR,
    meta::OwnerReference, node::RuntimeClass, policy::PodDisruptionBudget, rbac::ClusterRole, rbac::ClusterRoleBinding, rbac::Role,
    rbac::RoleBinding, resource::DeviceClass, resource::ResourceClaim, resource::ResourceClaimTemplate,
    resource::ResourceSlice, scheduling::PriorityClass, storage::CSIDriver, storage::CSINode,
    storage::CSIStorageCapacity, storage::StorageClass, storage::VolumeAttachment,
    storage::VolumeAttributesClass,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_trees_round_trip() {
        let tree = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let pod = core::Pod::from_tree(&tree).expect("a pod");
        assert_eq!(pod.to_tree().expect("a tree"), tree);
        assert!(core::Pod::from_json(b"{\"apiVersion\":\"v1\",\"kind\":\"Node\"}").is_err());
    }
}

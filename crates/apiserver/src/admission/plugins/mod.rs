//! The built-in plugins, in upstream's order.

mod certificates;
mod devices;
mod escalation;
pub mod limits;
mod namespace;
mod node;
mod pod;
mod security;
mod storage;

use super::Plugin;

/// A plugin that only changes objects.
const fn mutating(name: &'static str, mutate: super::Mutate) -> Plugin {
    Plugin { name, mutate: Some(mutate), validate: None }
}

/// A plugin that only refuses objects.
const fn validating(name: &'static str, validate: super::Validate) -> Plugin {
    Plugin { name, mutate: None, validate: Some(validate) }
}

/// Every plugin that is on by default, in order.
pub const TABLE: &[Plugin] = &[
    mutating("NamespaceLifecycle", namespace::enter),
    validating("NamespaceLifecycle", namespace::leave),
    validating("NamespaceLifecycle", namespace::enter_below),
    Plugin { name: "LimitRanger", mutate: Some(limits::default), validate: Some(limits::check) },
    Plugin {
        name: "ServiceAccount",
        mutate: Some(pod::service_account),
        validate: Some(pod::has_service_account),
    },
    validating("NodeRestriction", node::restrict),
    mutating("TaintNodesByCondition", node::taint),
    validating("PodSecurity", security::check),
    mutating("PodTopologyLabels", pod::topology),
    mutating("Priority", pod::priority),
    validating("Priority", pod::one_default_class),
    mutating("DefaultTolerationSeconds", pod::tolerations),
    mutating("DefaultStorageClass", storage::default_class),
    mutating("StorageObjectInUseProtection", storage::protect),
    validating("PersistentVolumeClaimResize", storage::resize),
    Plugin { name: "RuntimeClass", mutate: Some(pod::runtime_class), validate: Some(pod::overhead) },
    mutating("DefaultIngressClass", storage::default_ingress_class),
    validating("CertificateApproval", certificates::approve),
    validating("CertificateSigning", certificates::sign),
    validating("CertificateSubjectRestriction", certificates::subject),
    mutating("CertificateRequester", certificates::requester),
    validating("RBACEscalation", escalation::check),
    validating("DeviceAdminAccess", devices::admin),
];

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn plugins_do_something() {
        assert!(TABLE.iter().all(|plugin| plugin.mutate.is_some() || plugin.validate.is_some()));
    }
}

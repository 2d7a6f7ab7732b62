//! Strategies of the remaining groups.

use serde_json::{Value, json};

use crate::defaults::other as defaults;
use crate::strategy::{
    Context, Generation, PLAIN, Part, Rules, SPEC_STATUS, differs, take_over, take_over_all_but,
};
use crate::tree::Tree;
use crate::validation as v;
use crate::validation::meta::NameRule;
use crate::validation::{admission, definition, devices, networking, policy, small, storage};

/// What `/status` resets where it keeps the metadata, too.
const WITH_META: &[(Part, &[&str])] = &[(Part::Status, &["metadata", "spec"])];

const SPEC: Generation = Generation::Fields(&["spec"]);

/// MutatingAdmissionPolicy.
pub static MUTATING_POLICY: Rules = Rules {
    default: defaults::admission_policy,
    generation: SPEC,
    unconditional_update: false,
    validate: |_, o| admission::mutating_policy(o, None),
    validate_update: |_, _, new, old| admission::mutating_policy(new, Some(old)),
    ..PLAIN
};
/// MutatingAdmissionPolicyBinding.
pub static MUTATING_POLICY_BINDING: Rules = Rules {
    default: defaults::admission_policy_binding,
    generation: SPEC,
    unconditional_update: false,
    validate: |_, o| admission::binding(o, true),
    validate_update: |_, _, new, _| admission::binding(new, true),
    ..PLAIN
};
/// ValidatingAdmissionPolicy.
pub static VALIDATING_POLICY: Rules = Rules {
    default: defaults::admission_policy,
    unconditional_update: false,
    update: |_, part, new, old| {
        if part == Part::Status {
            reset_meta(new, old);
        }
    },
    validate: |_, o| admission::validating_policy(o, None),
    validate_update: |_, part, new, old| match part {
        Part::Status => admission::validating_policy_status(new),
        _ => admission::validating_policy(new, Some(old)),
    },
    resets: WITH_META,
    ..SPEC_STATUS
};
/// ValidatingAdmissionPolicyBinding.
pub static VALIDATING_POLICY_BINDING: Rules = Rules {
    default: defaults::admission_policy_binding,
    generation: SPEC,
    unconditional_update: false,
    validate: |_, o| admission::binding(o, false),
    validate_update: |_, _, new, _| admission::binding(new, false),
    ..PLAIN
};
/// MutatingWebhookConfiguration.
pub static MUTATING_WEBHOOK: Rules = Rules {
    default: defaults::mutating_webhook,
    generation: Generation::Fields(&["webhooks"]),
    unconditional_update: false,
    validate: |_, o| admission::webhooks(o, None, true),
    validate_update: |_, _, new, old| admission::webhooks(new, Some(old), true),
    ..PLAIN
};
/// ValidatingWebhookConfiguration.
pub static VALIDATING_WEBHOOK: Rules = Rules {
    default: defaults::validating_webhook,
    generation: Generation::Fields(&["webhooks"]),
    unconditional_update: false,
    validate: |_, o| admission::webhooks(o, None, false),
    validate_update: |_, _, new, old| admission::webhooks(new, Some(old), false),
    ..PLAIN
};

/// CustomResourceDefinition.
pub static CRD: Rules = Rules {
    default: defaults::crd,
    unconditional_update: false,
    create: |_, crd| note_stored_version(crd),
    update: |_, part, new, _| {
        if part == Part::Main {
            note_stored_version(new);
        }
    },
    validate: |_, o| definition::definition(o, None),
    validate_update: |_, part, new, old| match part {
        Part::Status => definition::status(new),
        _ => definition::definition(new, Some(old)),
    },
    name: NameRule::Own,
    ..SPEC_STATUS
};

fn note_stored_version(crd: &mut Value) {
    let stored = crd.list("spec.versions").iter().find(|v| v.flag("storage"));
    let Some(name) = stored.map(|v| v.at("name").clone()) else { return };
    let mut all = crd.list("status.storedVersions").to_vec();
    if !all.contains(&name) {
        all.push(name);
        crd.set("status.storedVersions", Value::Array(all));
    }
}

/// APIService.
pub static API_SERVICE: Rules = Rules {
    default: defaults::api_service,
    status: true,
    unconditional_update: false,
    create: |cx, service| {
        if !service.has("spec.service") {
            let condition = json!([{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": api::time::format(cx.now)}]);
            service.set("status.conditions", condition);
        }
    },
    update: |_, part, new, old| {
        if part == Part::Status {
            reset_meta(new, old);
        }
    },
    name: NameRule::PathSegment,
    validate: |_, o| small::api_service(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => small::api_service_status(new),
        _ => small::api_service(new),
    },
    resets: WITH_META,
    ..PLAIN
};

/// Metadata stays as it was, apart from what every write moves.
fn reset_meta(new: &mut Value, old: &Value) {
    let (Some(new), Some(old)) = (new.get_mut("metadata"), old.get("metadata")) else { return };
    take_over(new, old, &["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"]);
}

fn reset_meta_for_status(_cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
    if part == Part::Status {
        reset_meta(new, old);
    }
}

/// The topology of old can only be read; the node that it named stays with an endpoint that has none.
fn drop_topology(slice: &mut Value, old: &Value) {
    const HOST: &str = "kubernetes.io/hostname";
    let node = |endpoint: &Value| endpoint.map("deprecatedTopology").get(HOST).cloned();
    let known: Vec<Value> = old.list("endpoints").iter().filter_map(node).collect();
    for endpoint in slice.list_mut("endpoints") {
        if let Some(node) = node(endpoint).filter(|node| known.contains(node) && !endpoint.has("nodeName")) {
            endpoint.set("nodeName", node);
        }
        endpoint.unset("deprecatedTopology");
    }
}

/// EndpointSlice.
pub static ENDPOINT_SLICE: Rules = Rules {
    default: defaults::endpoint_slice,
    create: |_, slice| drop_topology(slice, &Value::Null),
    update: |_, _, new, old| {
        if differs(new.get("endpoints"), old.get("endpoints")) {
            drop_topology(new, old);
        }
    },
    generation: Generation::Function(|new, old| {
        ["addressType", "endpoints", "ports"].iter().any(|f| differs(new.get(f), old.get(f)))
            || differs(Some(new.at("metadata.labels")), Some(old.at("metadata.labels")))
    }),
    validate: |_, o| networking::endpoint_slice(o, None),
    validate_update: |_, _, new, old| networking::endpoint_slice(new, Some(old)),
    ..PLAIN
};
/// IngressClass.
pub static INGRESS_CLASS: Rules = Rules {
    default: defaults::ingress_class,
    generation: SPEC,
    validate: |_, o| networking::ingress_class(o),
    validate_update: |_, _, new, old| networking::ingress_class_update(new, old),
    ..PLAIN
};
/// Ingress.
pub static INGRESS: Rules = Rules {
    validate: |_, o| networking::ingress(o, true),
    validate_update: |_, part, new, old| match part {
        Part::Status => networking::ingress_status(new, old),
        _ => networking::ingress(new, false),
    },
    ..SPEC_STATUS
};
/// IPAddress.
pub static IP_ADDRESS: Rules = Rules {
    name: NameRule::Address,
    validate: |_, o| networking::ip_address(o),
    validate_update: |_, _, new, old| networking::ip_address_update(new, old),
    ..PLAIN
};
/// NetworkPolicy.
pub static NETWORK_POLICY: Rules = Rules {
    default: defaults::network_policy,
    generation: SPEC,
    validate: |_, o| networking::network_policy(o),
    validate_update: |_, _, new, _| networking::network_policy(new),
    ..PLAIN
};
/// ServiceCIDR.
pub static SERVICE_CIDR: Rules = Rules {
    status: true,
    update: reset_meta_for_status,
    validate: |_, o| networking::service_cidr(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::ErrorList::new(),
        _ => networking::service_cidr_update(new, old),
    },
    resets: WITH_META,
    ..PLAIN
};

/// PodDisruptionBudget.
pub static PDB: Rules = Rules {
    unconditional_update: false,
    name: NameRule::PathSegment,
    validate: |_, o| policy::disruption_budget(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => policy::disruption_budget_status(new),
        _ => policy::disruption_budget(new),
    },
    ..SPEC_STATUS
};

const RBAC: Rules = Rules { name: NameRule::PathSegment, create_on_update: true, ..PLAIN };
/// Role.
pub static ROLE: Rules = Rules {
    validate: |_, o| policy::role(o, true),
    validate_update: |_, _, new, _| policy::role(new, true),
    ..RBAC
};
/// ClusterRole.
pub static CLUSTER_ROLE: Rules = Rules {
    validate: |_, o| policy::role(o, false),
    validate_update: |_, _, new, _| policy::role(new, false),
    ..RBAC
};
/// RoleBinding.
pub static ROLE_BINDING: Rules = Rules {
    default: defaults::role_binding,
    validate: |_, o| policy::role_binding(o, true),
    validate_update: |_, _, new, old| policy::role_binding_update(new, old, true),
    ..RBAC
};
/// ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDING: Rules = Rules {
    default: defaults::role_binding,
    validate: |_, o| policy::role_binding(o, false),
    validate_update: |_, _, new, old| policy::role_binding_update(new, old, false),
    ..RBAC
};

/// FlowSchema.
pub static FLOW_SCHEMA: Rules = Rules {
    default: defaults::flow_schema,
    validate: |_, o| small::flow_schema(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => small::conditions(new),
        _ => small::flow_schema(new),
    },
    update: reset_meta_for_status,
    resets: WITH_META,
    ..SPEC_STATUS
};
/// PriorityLevelConfiguration.
pub static PRIORITY_LEVEL: Rules = Rules {
    default: defaults::priority_level,
    validate: |_, o| small::priority_level(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => small::conditions(new),
        _ => small::priority_level(new),
    },
    update: reset_meta_for_status,
    resets: WITH_META,
    ..SPEC_STATUS
};

/// CSIDriver: its generation starts with the first change.
pub static CSI_DRIVER: Rules = Rules {
    default: defaults::csi_driver,
    generation: SPEC,
    create: |_, driver| crate::strategy::set_generation(driver, 0),
    unconditional_update: false,
    warnings: |_, new, old| storage::csi_driver_warnings(new, old),
    validate: |_, o| storage::csi_driver(o),
    validate_update: |_, _, new, old| storage::csi_driver_update(new, old),
    ..PLAIN
};
/// CSINode.
pub static CSI_NODE: Rules = Rules {
    unconditional_update: false,
    validate: |_, o| storage::csi_node(o),
    validate_update: |_, _, new, old| storage::csi_node_update(new, old),
    ..PLAIN
};
/// CSIStorageCapacity.
pub static CSI_CAPACITY: Rules = Rules {
    unconditional_update: false,
    validate: |_, o| storage::csi_capacity(o),
    validate_update: |_, _, new, old| storage::csi_capacity_update(new, old),
    ..PLAIN
};
/// StorageClass.
pub static STORAGE_CLASS: Rules = Rules {
    default: defaults::storage_class,
    validate: |_, o| storage::storage_class(o),
    validate_update: |_, _, new, old| storage::storage_class_update(new, old),
    ..PLAIN
};
/// VolumeAttachment.
pub static VOLUME_ATTACHMENT: Rules = Rules {
    status: true,
    unconditional_update: false,
    update: reset_meta_for_status,
    validate: |_, o| storage::volume_attachment(o),
    validate_update: |_, _, new, old| storage::volume_attachment_update(new, old),
    resets: WITH_META,
    ..PLAIN
};
/// VolumeAttributesClass.
pub static VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate: |_, o| storage::volume_attributes_class(o),
    validate_update: |_, _, new, old| storage::volume_attributes_class_update(new, old),
    ..PLAIN
};

/// CertificateSigningRequest: who asks is what the server saw, not what the client wrote.
pub static CSR: Rules = Rules {
    create: create_csr,
    update: update_csr,
    name: NameRule::PathSegment,
    resets: &[
        (Part::Main, &["spec", "status"]),
        (Part::Status, &["spec", "status.conditions"]),
        (Part::Approval, &["spec", "status.certificate"]),
    ],
    validate: |_, o| policy::certificate_request(o),
    validate_update: |_, part, new, old| match part {
        Part::Main => v::ErrorList::new(),
        _ => policy::certificate_conditions(new, old, part == Part::Approval),
    },
    ..PLAIN
};

fn create_csr(cx: &Context<'_>, csr: &mut Value) {
    for field in ["username", "uid", "groups", "extra"] {
        csr.unset(&format!("spec.{field}"));
    }
    if let Some(user) = cx.user {
        csr.set("spec.username", user.name.clone());
        csr.set("spec.uid", user.uid.clone());
        csr.set("spec.groups", json!(user.groups));
        if !user.extra.is_empty() {
            csr.set("spec.extra", json!(user.extra));
        }
    }
    csr.set("status", json!({}));
}

fn update_csr(cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Status => {
            take_over_all_but(new, old, &["metadata", "status"]);
            keep_decisions(new, old);
            stamp_conditions(cx, new, old);
        }
        Part::Approval => {
            stamp_conditions(cx, new, old);
            let conditions = new.at("status.conditions").clone();
            take_over_all_but(new, old, &["metadata"]);
            new.set("status.conditions", conditions);
        }
        _ => take_over(new, old, &["spec", "status"]),
    }
}

/// Approved and Denied are the approval subresource's.
fn keep_decisions(new: &mut Value, old: &Value) {
    let decision = |c: &Value| matches!(c.text("type"), "Approved" | "Denied");
    let old_ones: Vec<&Value> = old.list("status.conditions").iter().filter(|c| decision(c)).collect();
    let mut all = new.list("status.conditions").to_vec();
    for kept in old_ones {
        match all.iter_mut().find(|c| c.text("type") == kept.text("type")) {
            Some(same) => *same = kept.clone(),
            None => all.push(kept.clone()),
        }
    }
    if !all.is_empty() {
        new.set("status.conditions", Value::Array(all));
    }
}

fn stamp_conditions(cx: &Context<'_>, new: &mut Value, old: &Value) {
    let now = api::time::format(cx.now);
    for condition in new.list_mut("status.conditions") {
        condition.set_default("lastUpdateTime", now.clone());
        if condition.has("lastTransitionTime") {
            continue;
        }
        let same = old.list("status.conditions").iter().find(|c| {
            c.text("type") == condition.text("type") && c.text("status") == condition.text("status")
        });
        let time = same.map(|c| c.at("lastTransitionTime").clone()).filter(|t| !t.is_null());
        condition.set("lastTransitionTime", time.unwrap_or_else(|| now.clone().into()));
    }
}

/// Coordinated leader election is not on.
fn drop_election(lease: &mut Value, old: &Value) {
    for field in ["spec.strategy", "spec.preferredHolder"] {
        if !old.has(field) {
            lease.unset(field);
        }
    }
}

/// Lease.
pub static LEASE: Rules = Rules {
    create_on_update: true,
    unconditional_update: false,
    create: |_, lease| drop_election(lease, &Value::Null),
    update: |_, _, new, old| drop_election(new, old),
    validate: |_, o| policy::lease(o),
    validate_update: |_, _, new, _| policy::lease(new),
    ..PLAIN
};
/// RuntimeClass.
pub static RUNTIME_CLASS: Rules = Rules {
    create_on_update: true,
    unconditional_update: false,
    validate: |_, o| policy::runtime_class(o),
    validate_update: |_, _, new, old| policy::runtime_class_update(new, old),
    ..PLAIN
};
/// PriorityClass.
pub static PRIORITY_CLASS: Rules = Rules {
    default: defaults::priority_class,
    generation: Generation::Fields(&[]),
    validate: |_, o| policy::priority_class(o),
    validate_update: |_, _, new, old| policy::priority_class_update(new, old),
    ..PLAIN
};
/// DeviceClass.
pub static DEVICE_CLASS: Rules = Rules {
    name: NameRule::LongName,
    validate: |_, o| devices::class(o),
    validate_update: |_, _, new, _| devices::class(new),
    generation: SPEC,
    ..PLAIN
};
/// ResourceClaim.
pub static RESOURCE_CLAIM: Rules = Rules {
    default: defaults::resource_claim,
    validate: |_, o| devices::claim(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => devices::claim_status(new, old),
        _ => small::fixed_spec(new, old),
    },
    status: true,
    update: |cx, part, new, old| {
        reset_meta_for_status(cx, part, new, old);
        if part == Part::Status {
            devices::drop_deallocated(new, old);
        }
    },
    resets: WITH_META,
    ..PLAIN
};
/// ResourceClaimTemplate.
pub static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: defaults::resource_claim_template,
    validate: |_, o| devices::claim_template(o),
    validate_update: |_, _, new, old| small::fixed_spec(new, old),
    ..PLAIN
};
/// ResourceSlice.
pub static RESOURCE_SLICE: Rules = Rules {
    validate: |_, o| devices::slice(o, &Value::Null),
    validate_update: |_, _, new, old| devices::slice(new, old),
    generation: SPEC,
    ..PLAIN
};

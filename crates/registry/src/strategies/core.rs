//! Strategies of the core group, pods aside.

use serde_json::{Map, Value, json};

use crate::defaults::core as defaults;
use crate::strategy::{Context, Generation, PLAIN, Part, Rules, SPEC_STATUS, take_over, take_over_all_but};
use crate::tree::Tree;
use crate::validation as v;
use crate::validation::meta::NameRule;

/// ConfigMap.
pub static CONFIG_MAP: Rules = Rules {
    validate: |_, o| v::core::config_map(o),
    validate_update: |_, _, new, old| v::core::config_map_update(new, old),
    ..PLAIN
};

/// Secret.
pub static SECRET: Rules = Rules {
    default: defaults::secret,
    update: |_, _, new, old| {
        if new.text("type").is_empty() {
            new.set("type", old.text("type"));
        }
    },
    validate: |_, o| v::core::secret(o),
    validate_update: |_, _, new, old| v::core::secret_update(new, old),
    ..PLAIN
};

/// Endpoints.
pub static ENDPOINTS: Rules = Rules {
    default: defaults::endpoints,
    create_on_update: true,
    validate: |_, o| v::service::endpoints(o, None),
    validate_update: |_, _, new, old| v::service::endpoints(new, Some(old)),
    ..PLAIN
};

/// Event of core/v1.
pub static EVENT: Rules = Rules {
    create_on_update: true,
    name: NameRule::Later,
    validate: |_, o| v::policy::event(o, false),
    validate_update: |_, _, new, _| v::policy::event(new, false),
    ..PLAIN
};

/// Event of events.k8s.io/v1.
pub static NEW_EVENT: Rules = Rules {
    create_on_update: true,
    name: NameRule::Later,
    validate: |_, o| v::policy::new_event(o),
    validate_update: |_, _, new, old| v::policy::event_update(new, old),
    ..PLAIN
};

/// LimitRange.
pub static LIMIT_RANGE: Rules = Rules {
    default: defaults::limit_range,
    create_on_update: true,
    // The one kind whose objects need no name.
    create: |_, range| {
        if range.text("metadata.name").is_empty() {
            range.set("metadata.name", range.at("metadata.uid").clone());
        }
    },
    validate: |_, o| v::core::limit_range(o),
    validate_update: |_, _, new, _| v::core::limit_range(new),
    ..PLAIN
};

/// ResourceQuota.
pub static RESOURCE_QUOTA: Rules = Rules {
    default: defaults::resource_quota,
    status: true,
    validate: |_, o| v::core::resource_quota(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::core::resource_quota_status(new),
        _ => v::core::resource_quota_update(new, old),
    },
    ..PLAIN
};

/// ServiceAccount.
pub static SERVICE_ACCOUNT: Rules =
    Rules { create: |_, object| bare_secrets(object), update: |_, _, new, _| bare_secrets(new), ..PLAIN };

fn bare_secrets(account: &mut Value) {
    for secret in account.list_mut("secrets") {
        *secret = json!({"name": secret.text("name")});
    }
}

/// PodTemplate.
pub static POD_TEMPLATE: Rules = Rules {
    default: defaults::pod_template,
    generation: Generation::Fields(&["template"]),
    validate: |_, o| v::core::pod_template(o),
    validate_update: |_, _, new, _| v::core::pod_template(new),
    ..PLAIN
};

/// ReplicationController.
pub static REPLICATION_CONTROLLER: Rules = Rules {
    default: defaults::replication_controller,
    name: NameRule::LongName,
    orphan_by_default: true,
    validate: |_, o| v::core::replication_controller(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => v::core::replica_status(new),
        _ => v::core::replication_controller(new),
    },
    ..SPEC_STATUS
};

/// Namespace.
pub static NAMESPACE: Rules = Rules {
    default: defaults::namespace,
    name: NameRule::DnsLabel,
    create: create_namespace,
    update: update_namespace,
    finish: defaults::namespace,
    validate: |_, o| v::core::namespace(o),
    validate_update: |_, part, new, _| match part {
        Part::Status => v::core::namespace_status(new),
        Part::Finalize => v::core::namespace_finalize(new),
        _ => v::core::namespace(new),
    },
    ..PLAIN
};

/// Finalizer that the namespace controller takes away when a namespace is empty.
const KUBERNETES: &str = "kubernetes";

fn create_namespace(_cx: &Context<'_>, ns: &mut Value) {
    ns.set("status", json!({"phase": "Active"}));
    let mut finalizers = ns.list("spec.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == KUBERNETES) {
        finalizers.push(KUBERNETES.into());
    }
    ns.set("spec.finalizers", Value::Array(finalizers));
}

fn update_namespace(_cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Status => take_over_all_but(new, old, &["metadata", "status"]),
        Part::Finalize => take_over(new, old, &["status"]),
        _ => {
            take_over(new, old, &["status"]);
            let finalizers = old.list("spec.finalizers").to_vec();
            new.set("spec.finalizers", Value::Array(finalizers));
        }
    }
}

/// Node. Its status may be set at creation.
pub static NODE: Rules = Rules {
    default: defaults::node,
    create: |_, node| {
        node.unset("spec.configSource");
        node.unset("status.config");
    },
    update: |_, part, new, old| match part {
        Part::Status => {
            take_over_all_but(new, old, &["metadata", "status"]);
            if !old.has("status.config") {
                new.unset("status.config");
            }
        }
        _ => {
            take_over(new, old, &["status"]);
            if !old.has("spec.configSource") {
                new.unset("spec.configSource");
            }
        }
    },
    validate: |_, o| v::core::node(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::core::node_change(new, old),
        _ => v::core::node_update(new, old),
    },
    ..PLAIN
};

/// PersistentVolume.
pub static PV: Rules = Rules {
    default: defaults::persistent_volume,
    status: true,
    create: |cx, pv| {
        let now = api::time::format(cx.now);
        pv.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
    },
    update: update_pv,
    validate: |_, o| v::storage::persistent_volume(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::ErrorList::new(),
        _ => v::storage::persistent_volume_update(new, old),
    },
    ..PLAIN
};

fn update_pv(cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
    const TIME: &str = "status.lastPhaseTransitionTime";
    if part != Part::Status {
        return;
    }
    let same_phase = new.text("status.phase") == old.text("status.phase");
    if same_phase && !new.has(TIME) && old.has(TIME) {
        new.set(TIME, old.at(TIME).clone());
    } else if !same_phase && (!new.has(TIME) || new.at(TIME) == old.at(TIME)) {
        new.set(TIME, api::time::format(cx.now));
    }
}

/// `dataSource` and `dataSourceRef` mirror each other; a data source of a kind that only the
/// reference may name is dropped, silently as ever.
fn data_sources(pvc: &mut Value, old: &Value) {
    let Some(spec) = pvc.get_mut("spec") else { return };
    if !spec.text("dataSourceRef.namespace").is_empty() && !old.has("spec.dataSourceRef") {
        spec.unset("dataSourceRef");
    }
    let source = spec.at("dataSource");
    let group = source.text("apiGroup");
    let known = match source.text("kind") {
        "PersistentVolumeClaim" => group.is_empty(),
        "VolumeSnapshot" => group == "snapshot.storage.k8s.io",
        _ => false,
    };
    let had = old.has("spec.dataSource") || old.has("spec.dataSourceRef");
    if !known && !spec.has("dataSourceRef") && !had {
        spec.unset("dataSource");
    }
    if spec.has("dataSource") && !spec.has("dataSourceRef") {
        let source = spec.at("dataSource").clone();
        spec.set("dataSourceRef", source);
    } else if spec.has("dataSourceRef") && !spec.has("dataSource") {
        let reference = spec.at("dataSourceRef").clone();
        if reference.text("namespace").is_empty() {
            spec.set("dataSource", reference);
        }
    }
}

/// PersistentVolumeClaim.
pub static PVC: Rules = Rules {
    default: defaults::claim,
    status: true,
    create: |_, pvc| data_sources(pvc, &Value::Null),
    update: |_, part, new, old| {
        if part == Part::Main {
            data_sources(new, old);
        }
    },
    validate: |_, o| v::storage::claim(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::storage::claim_status(new),
        _ => v::storage::claim_update(new, old),
    },
    ..PLAIN
};

/// Service. Cluster IPs and node ports are the API server's to allocate.
pub static SERVICE: Rules = Rules {
    default: defaults::service,
    status: true,
    name: NameRule::DnsLabel,
    create_on_update: true,
    validate: |_, o| v::service::create(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::service::status(new, old),
        _ => v::service::update(new, old),
    },
    update: |_, part, new, old| {
        if part == Part::Main {
            drop_type_dependent(new, old);
        }
    },
    ..PLAIN
};

/// Fields that only some service types have vanish with the type when the client left them as
/// they were.
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let needs_ip = |s: &Value| s.text("spec.type") != "ExternalName";
    let needs_port = |s: &Value| matches!(s.text("spec.type"), "NodePort" | "LoadBalancer");
    let balancer = |s: &Value| s.text("spec.type") == "LoadBalancer";
    let health = |s: &Value| balancer(s) && s.text("spec.externalTrafficPolicy") == "Local";
    let external = |s: &Value| {
        needs_port(s) || (s.text("spec.type") == "ClusterIP" && !s.list("spec.externalIPs").is_empty())
    };
    let same = |new: &Value, path: &str| new.at(path) == old.at(path);
    if needs_ip(old) && !needs_ip(new) {
        if same(new, "spec.clusterIP") && same(new, "spec.clusterIPs") {
            new.unset("spec.clusterIP");
            new.unset("spec.clusterIPs");
        }
        for path in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if same(new, path) {
                new.unset(path);
            }
        }
    }
    let ports = |s: &Value| -> Vec<i64> {
        s.list("spec.ports").iter().map(|p| p.int("nodePort")).filter(|p| *p != 0).collect()
    };
    let old_ports = ports(old);
    if needs_port(old) && !needs_port(new) && ports(new).iter().all(|p| old_ports.contains(p)) {
        for port in new.list_mut("spec.ports") {
            port.unset("nodePort");
        }
    }
    let rules: [(bool, &str); 4] = [
        (health(old) && !health(new), "spec.healthCheckNodePort"),
        (balancer(old) && !balancer(new), "spec.allocateLoadBalancerNodePorts"),
        (balancer(old) && !balancer(new), "spec.loadBalancerClass"),
        (external(old) && !external(new), "spec.externalTrafficPolicy"),
    ];
    for (gone, path) in rules {
        if gone && same(new, path) {
            new.unset(path);
        }
    }
    if !balancer(new) {
        new.set("status.loadBalancer", Value::Object(Map::new()));
    }
}

//! Defaults of the remaining groups.

use serde_json::{Value, json};

use super::{fill, fill_zero};
use crate::tree::Tree;

const RBAC: &str = "rbac.authorization.k8s.io";

pub fn role_binding(b: &mut Value) {
    b.set_default("roleRef.apiGroup", RBAC);
    if b.text("roleRef.apiGroup").is_empty() {
        b.set("roleRef.apiGroup", RBAC);
    }
    for subject in b.list_mut("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.set_default("apiGroup", RBAC);
        }
    }
}

pub fn network_policy(n: &mut Value) {
    if n.list("spec.policyTypes").is_empty() {
        let egress = !n.list("spec.egress").is_empty();
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        n.set("spec.policyTypes", types);
    }
    for rules in ["spec.ingress", "spec.egress"] {
        for rule in n.list_mut(rules) {
            for port in rule.list_mut("ports") {
                port.set_default("protocol", "TCP");
            }
        }
    }
}

pub fn ingress_class(c: &mut Value) {
    if c.has("spec.parameters") {
        c.set_default("spec.parameters.scope", "Cluster");
    }
}

pub fn endpoint_slice(s: &mut Value) {
    for port in s.list_mut("ports") {
        fill(port, &[("name", json!("")), ("protocol", json!("TCP"))]);
    }
}

pub fn storage_class(s: &mut Value) {
    fill(s, &[("reclaimPolicy", json!("Delete")), ("volumeBindingMode", json!("Immediate"))]);
}

pub fn csi_driver(d: &mut Value) {
    fill(
        d,
        &[
            ("spec.attachRequired", json!(true)),
            ("spec.podInfoOnMount", json!(false)),
            ("spec.storageCapacity", json!(false)),
            ("spec.fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
            ("spec.volumeLifecycleModes", json!(["Persistent"])),
            ("spec.requiresRepublish", json!(false)),
            ("spec.seLinuxMount", json!(false)),
        ],
    );
}

pub fn priority_class(p: &mut Value) {
    p.set_default("preemptionPolicy", "PreemptLowerPriority");
}

/// Device requests of claims and of the claims in templates.
fn device_requests(spec: &mut Value) {
    for request in spec.list_mut("devices.requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            device_request(exactly);
        }
        request.list_mut("firstAvailable").iter_mut().for_each(device_request);
    }
}

fn device_request(request: &mut Value) {
    request.set_default("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.set_default("count", 1);
    }
    for toleration in request.list_mut("tolerations") {
        toleration.set_default("operator", "Equal");
    }
}

pub fn resource_claim(c: &mut Value) {
    if let Some(spec) = c.get_mut("spec") {
        device_requests(spec);
    }
    for result in c.list_mut("status.allocation.devices.results") {
        for toleration in result.list_mut("tolerations") {
            toleration.set_default("operator", "Equal");
        }
    }
}

pub fn resource_claim_template(t: &mut Value) {
    if let Some(spec) = t.at_mut("spec.spec") {
        device_requests(spec);
    }
}

pub fn flow_schema(f: &mut Value) {
    fill_zero(f, &[("spec.matchingPrecedence", 1000)]);
}

pub fn priority_level(p: &mut Value) {
    if p.has("spec.exempt") {
        fill(
            p,
            &[("spec.exempt.nominalConcurrencyShares", json!(0)), ("spec.exempt.lendablePercent", json!(0))],
        );
    }
    if p.has("spec.limited") {
        fill(
            p,
            &[
                ("spec.limited.nominalConcurrencyShares", json!(30)),
                ("spec.limited.lendablePercent", json!(0)),
            ],
        );
    }
    if p.has("spec.limited.limitResponse.queuing") {
        fill_zero(
            p,
            &[
                ("spec.limited.limitResponse.queuing.handSize", 8),
                ("spec.limited.limitResponse.queuing.queues", 64),
                ("spec.limited.limitResponse.queuing.queueLengthLimit", 50),
            ],
        );
    }
}

fn webhooks(w: &mut Value, mutating: bool) {
    for hook in w.list_mut("webhooks") {
        fill(
            hook,
            &[
                ("failurePolicy", json!("Fail")),
                ("matchPolicy", json!("Equivalent")),
                ("namespaceSelector", json!({})),
                ("objectSelector", json!({})),
                ("timeoutSeconds", json!(10)),
            ],
        );
        if mutating {
            hook.set_default("reinvocationPolicy", "Never");
        }
        if hook.has("clientConfig.service") {
            hook.set_default("clientConfig.service.port", 443);
        }
        for rule in hook.list_mut("rules") {
            rule.set_default("scope", "*");
        }
    }
}

pub fn validating_webhook(w: &mut Value) {
    webhooks(w, false);
}

pub fn mutating_webhook(w: &mut Value) {
    webhooks(w, true);
}

fn match_resources(m: Option<&mut Value>) {
    let Some(m) = m.filter(|m| m.is_object()) else { return };
    fill(
        m,
        &[
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
        ],
    );
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in m.list_mut(list) {
            rule.set_default("scope", "*");
        }
    }
}

pub fn admission_policy(p: &mut Value) {
    p.set_default("spec.failurePolicy", "Fail");
    match_resources(p.at_mut("spec.matchConstraints"));
}

pub fn admission_policy_binding(b: &mut Value) {
    match_resources(b.at_mut("spec.matchResources"));
}

pub fn crd(c: &mut Value) {
    let kind = c.text("spec.names.kind").to_string();
    if !kind.is_empty() {
        c.set_default("spec.names.singular", kind.to_lowercase());
        c.set_default("spec.names.listKind", format!("{kind}List"));
        if c.text("spec.names.singular").is_empty() {
            c.set("spec.names.singular", kind.to_lowercase());
        }
    }
    c.set_default("spec.conversion", json!({"strategy": "None"}));
    if c.has("spec.conversion.webhook.clientConfig.service") {
        c.set_default("spec.conversion.webhook.clientConfig.service.port", 443);
    }
    if c.list("status.storedVersions").is_empty() {
        let stored = c.list("spec.versions").iter().find(|v| v.flag("storage"));
        if let Some(name) = stored.map(|v| v.text("name").to_string()) {
            c.set("status.storedVersions", json!([name]));
        }
    }
}

pub fn api_service(a: &mut Value) {
    if a.has("spec.service") {
        a.set_default("spec.service.port", 443);
    }
}

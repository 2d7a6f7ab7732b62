//! Plans for one pod's claims and for one claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::Pod;
use api::k8s::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{EventKind, Key, Meta, Patch, Plan, Step};
use serde_json::json;

use crate::context::{controller_of, is_kind};
use crate::owner::controller_ref;
use crate::pods;

/// On a claim made from a template: the name by which its pod knows it.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim while devices are allocated to it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// Names of a pod's claims that come from templates, and of these.
fn from_templates(pod: &Pod) -> Vec<(&str, &str)> {
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
    let named = claims
        .iter()
        .filter_map(|claim| Some((claim.name.as_str(), claim.resource_claim_template_name.as_deref()?)));
    named.collect()
}

/// True when the pod has any claim.
pub fn uses_claims(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref()).is_some_and(|claims| !claims.is_empty())
}

/// True when the pod has a claim from a template.
pub fn wants_templates(pod: &Pod) -> bool {
    !from_templates(pod).is_empty()
}

/// True when the pod has a claim from this template.
pub fn wants_template(pod: &Pod, template: &str) -> bool {
    from_templates(pod).iter().any(|(_, name)| *name == template)
}

/// True when the claim is reserved for the pod of this uid.
pub fn is_reserved_for(claim: &ResourceClaim, uid: &str) -> bool {
    let reserved = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
    reserved.unwrap_or_default().iter().any(|consumer| consumer.uid == uid)
}

/// Makes the claims a pod wants from templates, and tells the pod their names.
pub fn pod(
    pod: &Pod,
    owned: &[Arc<ResourceClaim>],
    template: &dyn Fn(&str) -> Option<Arc<ResourceClaimTemplate>>,
) -> Plan {
    let mut plan = Plan::none();
    if pod.is_deleting() || pods::is_finished(pod) {
        return plan;
    }
    let status = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref());
    let told = status.unwrap_or_default();
    let mut names = Vec::new();
    for (name, template_name) in from_templates(pod) {
        if told.iter().any(|known| known.name == name) {
            continue;
        }
        if let Some(claim) = owned.iter().find(|claim| claim.annotation(POD_CLAIM) == Some(name)) {
            names.push(json!({"name": name, "resourceClaimName": claim.name()}));
            continue;
        }
        match template(template_name) {
            Some(template) => drop(plan.create(&made(pod, name, &template))),
            None => {
                let text = format!(
                    "PodResourceClaim {name}: resource claim template {template_name:?}: \
                     resourceclaimtemplate.resource.k8s.io {template_name:?} not found"
                );
                plan.event(pod, EventKind::Warning, "FailedResourceClaimCreation", text);
            }
        }
    }
    if !names.is_empty() {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": names}});
        plan.step(Step::patch::<Pod>(&Key::of(pod), "status", Patch::Strategic(patch)));
    }
    plan
}

fn made(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-{name}-", pod.name())),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels.filter(|labels: &BTreeMap<_, _>| !labels.is_empty()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// Takes a claim back from pods that are done: reservations first, then the allocation, then the claim itself if
/// it was made for its pod.
pub fn claim(claim: &ResourceClaim, pod: &dyn Fn(&str) -> Option<Arc<Pod>>) -> Plan {
    let mut plan = Plan::none();
    let lives =
        |name: &str, uid: &str| pod(name).is_some_and(|pod| pod.uid() == uid && !pods::is_finished(&pod));
    let held = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let mut after = claim.clone();
    let mut reserved = false;
    if let Some(status) = &mut after.status {
        let mut left = false;
        if let Some(consumers) = &mut status.reserved_for {
            let before = consumers.len();
            // Consumers of other kinds are not ours to judge.
            consumers.retain(|consumer| consumer.resource != "pods" || lives(&consumer.name, &consumer.uid));
            left = consumers.len() < before;
            reserved = !consumers.is_empty();
        }
        // What was allocated for pods that have not come yet stays.
        if !reserved && (left || held) {
            status.allocation = None;
        }
    }
    if after.status != claim.status {
        plan.update_status(&after);
        return plan;
    }
    if held && !reserved {
        after.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        plan.update(&after);
        return plan;
    }
    let owner = controller_of(claim).filter(|owner| is_kind::<Pod>(owner));
    if owner.is_some_and(|owner| !lives(&owner.name, &owner.uid)) && !claim.is_deleting() {
        plan.delete(claim);
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn user(phase: &str, statuses: Value) -> Pod {
        let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
        let object = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "P"},
            "spec": {"containers": [], "resourceClaims": claims},
            "status": {"phase": phase, "resourceClaimStatuses": statuses},
        });
        serde_json::from_value(object).expect("a pod")
    }

    fn held(status: Value, finalizers: Value) -> ResourceClaim {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "P", "controller": true});
        let object = json!({
            "metadata": {"name": "p-gpu-x", "namespace": "n", "annotations": {POD_CLAIM: "gpu"},
                "ownerReferences": [owner], "finalizers": finalizers},
            "spec": {}, "status": status,
        });
        serde_json::from_value(object).expect("a claim")
    }

    fn summary(plan: &Plan) -> Vec<String> {
        plan.steps().iter().map(|step| step.summary()).collect()
    }

    #[test]
    fn claims_come_from_templates() {
        let template: Arc<ResourceClaimTemplate> = Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": {"spec": {}}})).expect("valid"),
        );
        let find = |_: &str| Some(template.clone());
        let first = pod(&user("Pending", json!([])), &[], &find);
        assert_eq!(summary(&first), ["create resourceclaims.resource.k8s.io n/p-gpu-"]);
        let claim = Arc::new(held(json!({}), json!([])));
        let second = summary(&pod(&user("Pending", json!([])), &[claim], &find));
        assert!(second[0].contains("p-gpu-x") && second[0].starts_with("patch pods/status"), "{second:?}");
        let told = json!([{"name": "gpu", "resourceClaimName": "p-gpu-x"}]);
        assert!(pod(&user("Pending", told), &[], &find).is_empty());
        assert!(summary(&pod(&user("Pending", json!([])), &[], &|_| None))[0].contains("not found"));
    }

    #[test]
    fn claims_are_given_back_step_by_step() {
        let running = |_: &str| Some(Arc::new(user("Running", json!([]))));
        let done = |_: &str| Some(Arc::new(user("Succeeded", json!([]))));
        let consumer = json!([{"resource": "pods", "name": "p", "uid": "P"}]);
        let used = json!({"allocation": {}, "reservedFor": consumer});
        assert!(claim(&held(used.clone(), json!([FINALIZER])), &running).is_empty());
        let steps = |status: Value, finalizers: Value| summary(&claim(&held(status, finalizers), &done));
        assert!(steps(used, json!([FINALIZER]))[0].contains("/status"));
        let early = json!({"allocation": {}});
        assert!(claim(&held(early, json!([])), &running).is_empty(), "allocated before its pod came");
        assert!(steps(json!({"reservedFor": []}), json!([FINALIZER]))[0].starts_with("update"));
        assert!(steps(json!({}), json!([]))[0].starts_with("delete"));
    }
}

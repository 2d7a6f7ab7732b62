//! Who owns the claims of a set's pods, by its retention policy: nobody, the set, or the pod that scales away.

use api::k8s::api::apps::v1::{StatefulSet, StatefulSetSpec};
use api::k8s::api::core::v1::{PersistentVolumeClaim, Pod};
use api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use client::Meta;

use crate::owner::controller_ref;

/// What a set's policy says: claims go with the set, claims go with pods that scale away.
fn policy(spec: &StatefulSetSpec) -> (bool, bool) {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |word: Option<&str>| word == Some("Delete");
    (
        deletes(policy.and_then(|policy| policy.when_deleted.as_deref())),
        deletes(policy.and_then(|policy| policy.when_scaled.as_deref())),
    )
}

fn names(reference: &OwnerReference, kind: &str, name: &str) -> bool {
    let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    reference.kind == kind && reference.name == name && group == if kind == "Pod" { "" } else { "apps" }
}

/// The references a new claim of the set has.
pub fn initial(set: &StatefulSet, spec: &StatefulSetSpec) -> Option<Vec<OwnerReference>> {
    policy(spec).0.then(|| vec![controller_ref(set)])
}

/// True when the claim still goes with a pod of this name that is gone: a new pod must wait for the claim's end.
pub fn is_stale(spec: &StatefulSetSpec, claim: &PersistentVolumeClaim, pod: &str) -> bool {
    let references = claim.metadata.owner_references.iter().flatten();
    policy(spec).1 && references.into_iter().any(|reference| names(reference, "Pod", pod))
}

/// The claim with the owners the policy asks for; `None` when it has them, or is somebody else's.
pub fn corrected(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<PersistentVolumeClaim> {
    let known = claim.metadata.owner_references.clone().unwrap_or_default();
    let of_set = |reference: &OwnerReference| names(reference, "StatefulSet", set.name());
    let of_pod = |reference: &OwnerReference| names(reference, "Pod", pod.name());
    let stale = known.iter().any(|reference| {
        (of_set(reference) && reference.uid != set.uid()) || (of_pod(reference) && reference.uid != pod.uid())
    });
    if stale {
        // A former set or pod of this name manages it: the garbage collector will tell.
        return None;
    }
    let mut wanted: Vec<OwnerReference> =
        known.iter().filter(|reference| !of_set(reference) && !of_pod(reference)).cloned().collect();
    let managed = wanted.iter().any(|reference| reference.controller == Some(true));
    let (with_set, with_pod) = policy(spec);
    if managed && (with_set || with_pod) {
        // Another controller manages it; only our own references go.
    } else if with_pod && condemned {
        wanted.push(controller_ref(pod));
    } else if with_set {
        wanted.push(controller_ref(set));
    }
    if wanted == known {
        return None;
    }
    let mut after = claim.clone();
    after.metadata.owner_references = Some(wanted);
    Some(after)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_policy_says_who_owns_claims() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "data-db-0"}})).expect("a claim");
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "db-0", "uid": "P"}})).expect("a pod");
        let owners = |deleted: &str, scaled: &str, condemned: bool| {
            let set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "db", "uid": "S"},
                "spec": {"serviceName": "s", "selector": {}, "template": {},
                    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}},
            }))
            .expect("a set");
            let spec = set.spec.clone().unwrap_or_default();
            let after = corrected(&set, &spec, &claim, &pod, condemned)?;
            assert_eq!(corrected(&set, &spec, &after, &pod, condemned), None, "once is enough");
            let owners = after.metadata.owner_references.unwrap_or_default();
            Some(owners.iter().map(|owner| owner.uid.clone()).collect::<String>())
        };
        assert_eq!(owners("Retain", "Retain", true), None);
        assert_eq!(owners("Delete", "Retain", true).as_deref(), Some("S"));
        assert_eq!(owners("Delete", "Delete", false).as_deref(), Some("S"));
        assert_eq!(owners("Delete", "Delete", true).as_deref(), Some("P"));
        assert_eq!(owners("Retain", "Delete", true).as_deref(), Some("P"));
        assert_eq!(owners("Retain", "Delete", false), None);
    }
}

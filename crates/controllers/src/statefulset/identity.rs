//! Names, labels and claims of a StatefulSet's pods.

use api::k8s::api::apps::v1::{StatefulSet, StatefulSetSpec};
use api::k8s::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use client::Meta;

use super::retention;
use crate::history;
use crate::owner::controller_ref;
use crate::pods;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn pod_name(set: &str, ordinal: i32) -> String {
    format!("{set}-{ordinal}")
}

/// The ordinal of a pod of this set, from its name.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

pub fn claim_name(template: &PersistentVolumeClaim, set: &str, ordinal: i32) -> String {
    format!("{}-{}", template.name(), pod_name(set, ordinal))
}

/// The pod of an ordinal, from a revision's template.
pub fn new_pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    ordinal: i32,
    revision: &str,
) -> Pod {
    let mut pod = pods::from_template(template, set.namespace(), "", controller_ref(set));
    let name = pod_name(set.name(), ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    history::label(&mut pod.metadata.labels, revision);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name);
    pod_spec.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    mount_claims(set, spec, ordinal, &mut pod);
    pod
}

/// The pod's volumes, those of claim templates put first.
fn mount_claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32, pod: &mut Pod) {
    let templates: Vec<_> = spec.volume_claim_templates.iter().flatten().collect();
    if templates.is_empty() {
        return;
    }
    let volume = |template: &&PersistentVolumeClaim| Volume {
        name: template.name().to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(template, set.name(), ordinal),
            read_only: Some(false),
        }),
        ..Volume::default()
    };
    let mut volumes: Vec<Volume> = templates.iter().map(volume).collect();
    let pod_spec = pod.spec.get_or_insert_default();
    let others = pod_spec.volumes.take().unwrap_or_default();
    volumes.extend(
        others.into_iter().filter(|one| !templates.iter().any(|template| template.name() == one.name)),
    );
    pod_spec.volumes = Some(volumes);
}

/// The claims of an ordinal, as they are made.
pub fn claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(template, set.name(), ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim
            .metadata
            .labels
            .get_or_insert_default()
            .extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim.metadata.owner_references = retention::initial(set, spec);
        claim
    };
    spec.volume_claim_templates.iter().flatten().map(one).collect()
}

/// True when the pod carries the labels of its name.
pub fn has_identity(pod: &Pod) -> bool {
    pod.label(POD_NAME) == Some(pod.name())
}

/// The patch that gives an adopted pod its labels.
pub fn identity_patch(pod: &Pod, ordinal: i32) -> serde_json::Value {
    serde_json::json!({"metadata": {"labels": {POD_NAME: pod.name(), POD_INDEX: ordinal.to_string()}}})
}

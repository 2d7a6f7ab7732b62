//! Plans for one claim and for one volume: tie them together, tell what is missing, let go what is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use api::k8s::api::storage::v1::StorageClass;
use api::volumes::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE,
};
use client::{EventKind, Key, Meta, Plan};

const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// True when the claim's binding is done.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BIND_COMPLETED).is_some()
}

/// The claim that a volume names.
pub fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref()?))
}

/// What a claim's plan looks at besides the claim.
pub struct Around<'a> {
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// StorageClasses by name.
    pub class: &'a dyn Fn(&str) -> Option<Arc<StorageClass>>,
    /// Names of pods without a node that use the claim.
    pub waiting_pods: &'a dyn Fn() -> Vec<String>,
}

/// What to do about one claim.
pub fn claim(claim: &PersistentVolumeClaim, around: &Around<'_>) -> Plan {
    let mut plan = Plan::none();
    if is_bound(claim) {
        bound(claim, around, &mut plan);
    } else if claim.is_deleting() {
        // Nothing more is bound to it.
    } else if let Some(name) = volumes::volume_name(claim) {
        named(claim, name, around, &mut plan);
    } else {
        unbound(claim, around, &mut plan);
    }
    plan
}

/// A bound claim stays bound or is lost.
fn bound(claim: &PersistentVolumeClaim, around: &Around<'_>, plan: &mut Plan) {
    let Some(name) = volumes::volume_name(claim) else {
        let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lose(claim, "ClaimLost", text, plan);
    };
    let Some(volume) = around.volumes.iter().find(|volume| volume.name() == name) else {
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lose(claim, "ClaimLost", text, plan);
    };
    if is_free(volume) || volumes::is_meant_for(volume, claim) {
        bind(claim, volume, plan);
    } else {
        let text = "Two claims are bound to the same volume, this one is bound incorrectly";
        lose(claim, "ClaimMisbound", text, plan);
    }
}

fn is_free(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
}

/// A claim that asks for one volume waits until that is there and free.
fn named(claim: &PersistentVolumeClaim, name: &str, around: &Around<'_>, plan: &mut Plan) {
    let Some(volume) = around.volumes.iter().find(|volume| volume.name() == name) else {
        return set_phase(claim, "Pending", plan);
    };
    if volumes::is_meant_for(volume, claim) {
        return bind(claim, volume, plan);
    }
    if !is_free(volume) {
        if claim.annotation(BOUND_BY_CONTROLLER).is_none() {
            let text = format!("volume {name:?} already bound to a different claim.");
            plan.event(claim, EventKind::Warning, "FailedBinding", text);
        }
        return set_phase(claim, "Pending", plan);
    }
    match mismatch(claim, volume) {
        None => bind(claim, volume, plan),
        Some(why) => {
            let text = format!("Cannot bind to requested volume {name:?}: {why}");
            plan.event(claim, EventKind::Warning, "VolumeMismatch", text);
            set_phase(claim, "Pending", plan);
        }
    }
}

/// Why a volume that a claim asks for cannot be its.
fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let (offer, wish) = (volume.spec.as_ref()?, claim.spec.as_ref()?);
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    if volumes::capacity(volume) < volumes::requested(claim) {
        Some("requested PV is too small")
    } else if volumes::class_of_volume(volume) != volumes::class_of(claim) {
        Some("storageClassName does not match")
    } else if mode(&offer.volume_mode) != mode(&wish.volume_mode) {
        Some("incompatible volumeMode")
    } else if !volumes::has_modes(volume, claim) {
        Some("incompatible accessMode")
    } else if !volumes::serves(volume, claim) {
        Some("volumeAttributesClassName does not match")
    } else {
        None
    }
}

/// A claim without a volume is given one, or somebody is asked to make one.
fn unbound(claim: &PersistentVolumeClaim, around: &Around<'_>, plan: &mut Plan) {
    let class = (around.class)(volumes::class_of(claim));
    let waits = class
        .as_ref()
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let meant = around.volumes.iter().any(|volume| volumes::is_meant_for(volume, claim));
    let found = volumes::find(claim, around.volumes, &BTreeSet::new(), None);
    // The scheduler chooses for claims that wait for a pod; only what names them is theirs already.
    match found.filter(|_| !waits || meant) {
        Some(volume) => bind(claim, volume, plan),
        None if waits && claim.annotation(SELECTED_NODE).is_none() => wait(claim, around, plan),
        None => provision(claim, class.as_deref(), plan),
    }
}

/// Tells that a claim waits for its first pod.
fn wait(claim: &PersistentVolumeClaim, around: &Around<'_>, plan: &mut Plan) {
    set_phase(claim, "Pending", plan);
    let pods = (around.waiting_pods)();
    match pods.as_slice() {
        [] => {
            let text = "waiting for first consumer to be created before binding";
            plan.event(claim, EventKind::Normal, "WaitForFirstConsumer", text);
        }
        [pod] => {
            let text = format!("waiting for pod {pod} to be scheduled");
            plan.event(claim, EventKind::Normal, "WaitForPodScheduled", text);
        }
        pods => {
            let text = format!("waiting for pods {} to be scheduled", pods.join(","));
            plan.event(claim, EventKind::Normal, "WaitForPodScheduled", text);
        }
    }
}

/// No volume fits: a provisioner may make one.
fn provision(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, plan: &mut Plan) {
    let provisioner = class.map(|class| class.provisioner.as_str()).filter(|name| *name != NO_PROVISIONER);
    let Some(provisioner) = provisioner else {
        set_phase(claim, "Pending", plan);
        let name = volumes::class_of(claim);
        let (reason, text) = if name.is_empty() {
            (
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set".to_owned(),
            )
        } else if class.is_none() {
            ("ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"))
        } else {
            ("FailedBinding", "no persistent volumes available for this claim".to_owned())
        };
        let kind = if reason == "FailedBinding" { EventKind::Normal } else { EventKind::Warning };
        plan.event(claim, kind, reason, text);
        return;
    };
    if claim.annotation(PROVISIONER) != Some(provisioner) {
        let mut after = claim.clone();
        let annotations = after.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVISIONER.to_owned(), provisioner.to_owned());
        annotations.insert(OLD_PROVISIONER.to_owned(), provisioner.to_owned());
        plan.update(&after);
    } else {
        set_phase(claim, "Pending", plan);
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    plan.event(claim, EventKind::Normal, "ExternalProvisioning", text);
}

fn set_phase(claim: &PersistentVolumeClaim, phase: &str, plan: &mut Plan) {
    let mut after = claim.clone();
    after.status.get_or_insert_default().phase = Some(phase.to_owned());
    if after != *claim {
        plan.update_status(&after);
    }
}

fn lose(claim: &PersistentVolumeClaim, reason: &str, text: &str, plan: &mut Plan) {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Lost") {
        set_phase(claim, "Lost", plan);
        plan.event(claim, EventKind::Warning, reason, text);
    }
}

/// The volume's reference to a claim.
pub fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Ties the two together: the volume first, then the claim. One write of each object a round.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let mut after = volume.clone();
    let spec = after.spec.get_or_insert_default();
    let complete =
        spec.claim_ref.as_ref().is_some_and(|reference| reference.uid.as_deref() == Some(claim.uid()));
    if !complete {
        if spec.claim_ref.is_none() {
            let annotations = after.metadata.annotations.get_or_insert_default();
            annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        spec.claim_ref = Some(reference(claim));
        // Its event brings the claim back here for the next half.
        plan.update(&after);
        return;
    }
    let mut next = claim.clone();
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    let claim_spec = next.spec.get_or_insert_default();
    if claim_spec.volume_name.as_deref() != Some(volume.name()) {
        claim_spec.volume_name = Some(volume.name().to_owned());
        let annotations = next.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    if next != *claim {
        plan.update(&next);
        return;
    }
    let status = next.status.get_or_insert_default();
    let offer = volume.spec.clone().unwrap_or_default();
    status.phase = Some("Bound".to_owned());
    status.access_modes = offer.access_modes;
    if status.capacity.is_none() {
        status.capacity = offer.capacity;
    }
    if next != *claim {
        plan.update_status(&next);
    }
}

/// What to do about one volume, given the claim it names.
pub fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let mut plan = Plan::none();
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(uid) = reference.and_then(|reference| reference.uid.as_deref()).filter(|uid| !uid.is_empty())
    else {
        set_volume_phase(volume, "Available", "", &mut plan);
        return plan;
    };
    let Some(claim) = claim.filter(|claim| claim.uid() == uid) else {
        release(volume, &mut plan);
        return plan;
    };
    match volumes::volume_name(claim) {
        // The claim's own plan finishes the binding.
        None => {}
        Some(name) if name == volume.name() => set_volume_phase(volume, "Bound", "", &mut plan),
        // The claim has taken another volume: what was made for it goes, what was there before is free again.
        Some(_) if volume.annotation(PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            release(volume, &mut plan);
        }
        Some(_) => unbind(volume, &mut plan),
    }
    plan
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The claim is gone. Who made the volume removes it; for others nobody here can.
fn release(volume: &PersistentVolume, plan: &mut Plan) {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if !matches!(phase, Some("Released" | "Failed")) {
        set_volume_phase(volume, "Released", "", plan);
        return;
    }
    let external = volume.annotation(PROVISIONED_BY).is_some()
        || volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    let (reason, text) = match policy(volume) {
        "Delete" if !external => (
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {:?}: no volume plugin matched",
                volume.name()
            ),
        ),
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => return,
    };
    if phase != Some("Failed") && !volume.is_deleting() {
        set_volume_phase(volume, "Failed", &text, plan);
        plan.event(volume, EventKind::Warning, reason, text);
    }
}

fn unbind(volume: &PersistentVolume, plan: &mut Plan) {
    let mut after = volume.clone();
    let ours = after.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER).is_some();
    let spec = after.spec.get_or_insert_default();
    if ours {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        // Its maker wants this claim: only the trace of this very one goes.
        (reference.uid, reference.resource_version) = (None, None);
    }
    plan.update(&after);
}

/// Tells who is to make a bound volume larger; the provisioner of local volumes does so itself.
pub fn expand(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let mut plan = Plan::none();
    if is_bound(claim)
        && volumes::capacity(volume) < volumes::requested(claim)
        && volume.annotation(PROVISIONED_BY) != Some(volumes::LOCAL)
    {
        let text = "waiting for an external controller to expand this PVC";
        plan.event(claim, EventKind::Normal, "ExternalExpanding", text);
    }
    plan
}

fn set_volume_phase(volume: &PersistentVolume, phase: &str, message: &str, plan: &mut Plan) {
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
        return;
    }
    let mut after = volume.clone();
    let status = after.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|text| !text.is_empty());
    plan.update_status(&after);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pv(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn pvc(more: Value) -> PersistentVolumeClaim {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "",
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "C"}, "spec": spec}))
            .expect("a claim")
    }

    fn plan_of(
        wanted: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        class: Option<Arc<StorageClass>>,
    ) -> Plan {
        claim(wanted, &Around { volumes, class: &|_| class.clone(), waiting_pods: &Vec::new })
    }

    #[test]
    fn the_smallest_fitting_volume_is_bound_in_three_writes() {
        let mut volumes =
            vec![pv("big", "10Gi", json!({})), pv("fit", "2Gi", json!({})), pv("small", "1Gi", json!({}))];
        let mut wanted = pvc(json!({}));
        let mut log = Vec::new();
        for _ in 0..5 {
            let plan = plan_of(&wanted, &volumes, None);
            for step in plan.steps() {
                log.push(step.summary());
                let client::Step::Update { resource, object, .. } = step else { panic!("an update") };
                if resource.kind == "PersistentVolume" {
                    volumes[1] = Arc::new(serde_json::from_value(object.clone()).expect("a volume"));
                } else {
                    wanted = serde_json::from_value(object.clone()).expect("a claim");
                }
            }
        }
        let expect = [
            "update persistentvolumes fit",
            "update persistentvolumeclaims n/c",
            "update persistentvolumeclaims/status n/c",
        ];
        assert_eq!(log, expect);
        assert_eq!(
            super::volume(&volumes[1], Some(&wanted)).steps()[0].summary(),
            "update persistentvolumes/status fit"
        );
        assert_eq!(super::volume(&volumes[1], None).steps().len(), 1, "released");
    }

    #[test]
    fn classes_decide_what_waits() {
        let class = |provisioner: &str, mode: &str| {
            let class =
                json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode});
            Arc::new(serde_json::from_value::<StorageClass>(class).expect("a class"))
        };
        let told = |class: Option<Arc<StorageClass>>| {
            let plan = plan_of(&pvc(json!({"storageClassName": "s"})), &[], class);
            plan.steps().last().map(|step| step.summary()).unwrap_or_default()
        };
        assert!(told(Some(class("x", "WaitForFirstConsumer"))).contains("WaitForFirstConsumer"));
        assert!(told(Some(class("x", "Immediate"))).contains("ExternalProvisioning"));
        assert!(told(None).contains("ProvisioningFailed"));
    }

    #[test]
    fn volumes_go_as_their_policy_says() {
        let of = |policy: &str, phase: &str, by: Option<&str>| {
            let reference = json!({"name": "c", "namespace": "n", "uid": "gone"});
            let spec = json!({"persistentVolumeReclaimPolicy": policy, "claimRef": reference});
            let mut volume = (*pv("v", "1Gi", spec)).clone();
            volume.status.get_or_insert_default().phase = Some(phase.to_owned());
            if let Some(by) = by {
                let annotations = volume.metadata.annotations.get_or_insert_default();
                annotations.insert(PROVISIONED_BY.to_owned(), by.to_owned());
            }
            let plan = super::volume(&volume, None);
            let step = plan.steps().first().map(|step| (*step).clone());
            match step {
                Some(client::Step::Update { object, .. }) => {
                    object["status"]["phase"].as_str().unwrap_or("").to_owned()
                }
                _ => String::new(),
            }
        };
        assert_eq!(of("Retain", "Bound", None), "Released");
        assert_eq!(of("Retain", "Released", None), "", "kept for an administrator");
        assert_eq!(of("Delete", "Released", None), "Failed", "nobody can delete it");
        assert_eq!(of("Delete", "Released", Some("x")), "", "its maker deletes it");
        assert_eq!(of("Recycle", "Released", None), "Failed");
    }

    #[test]
    fn claims_that_name_a_volume_get_only_that() {
        let wanted = pvc(json!({"volumeName": "v"}));
        let summary = |volumes: &[Arc<PersistentVolume>]| {
            let plan = plan_of(&wanted, volumes, None);
            plan.steps().iter().map(|step| step.summary()).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(summary(&[pv("other", "2Gi", json!({}))]), "update persistentvolumeclaims/status n/c");
        assert_eq!(summary(&[pv("v", "2Gi", json!({}))]), "update persistentvolumes v");
        assert!(summary(&[pv("v", "1Gi", json!({}))]).contains("requested PV is too small"));
        let taken = json!({"claimRef": {"name": "x", "namespace": "n", "uid": "X"}});
        assert!(summary(&[pv("v", "2Gi", taken)]).contains("already bound to a different claim"));
    }
}

//! Plans for one claim and for one volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Quantity;
use api::k8s::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use api::k8s::api::storage::v1::StorageClass;
use api::labels::Selector;
use client::{EventKind, Key, Meta, Plan};

const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// True when the claim's binding is done.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(COMPLETED).is_some()
}

/// The claim that a volume names.
pub fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref()?))
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    spec.or(claim.annotation("volume.beta.kubernetes.io/storage-class")).unwrap_or("")
}

fn storage(
    list: Option<&BTreeMap<String, api::k8s::apimachinery::pkg::api::resource::Quantity>>,
) -> Quantity {
    list.and_then(|list| list.get("storage")).and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// True when the volume names this claim.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = offer.access_modes.clone().unwrap_or_default();
    let selector = match &wish.selector {
        None => Ok(Selector::everything()),
        Some(selector) => Selector::from_object(Some(selector)),
    };
    !volume.is_deleting()
        && mode(&offer.volume_mode) == mode(&wish.volume_mode)
        && wish.access_modes.iter().flatten().all(|wanted| modes.contains(wanted))
        && capacity(volume)
            >= storage(wish.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
        && offer.storage_class_name.as_deref().unwrap_or("") == class_of(claim)
        && selector.is_ok_and(|selector| selector.matches_opt(volume.meta().labels.as_ref()))
}

/// The volume to bind: one that names the claim, else the smallest free one that fits.
fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
) -> Option<&'a PersistentVolume> {
    if let Some(named) = volumes.iter().find(|volume| is_meant_for(volume, claim) && fits(volume, claim)) {
        return Some(named);
    }
    let free = volumes.iter().filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Available") && volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
    });
    let fitting = free.filter(|volume| fits(volume, claim));
    fitting
        .min_by(|a, b| {
            capacity(a)
                .partial_cmp(&capacity(b))
                .unwrap_or(std::cmp::Ordering::Equal)
                .then_with(|| a.name().cmp(b.name()))
        })
        .map(|volume| &**volume)
}

/// What to do about one claim.
pub fn claim(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: &dyn Fn(&str) -> Option<Arc<StorageClass>>,
) -> Plan {
    let mut plan = Plan::none();
    let wanted =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    let find = |name: &str| volumes.iter().find(|volume| volume.name() == name);
    if is_bound(claim) {
        match wanted.and_then(find) {
            Some(volume) if is_meant_for(volume, claim) => bind(claim, volume, &mut plan),
            _ => lose(claim, &mut plan),
        }
        return plan;
    }
    if claim.is_deleting() {
        return plan;
    }
    if let Some(name) = wanted {
        let free = |volume: &&Arc<PersistentVolume>| {
            is_meant_for(volume, claim) || volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
        };
        match find(name).filter(free) {
            Some(volume) => bind(claim, volume, &mut plan),
            None => set_phase(claim, "Pending", &mut plan),
        }
        return plan;
    }
    let storage_class = class(class_of(claim));
    let waits = storage_class
        .as_ref()
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let named = volumes.iter().any(|volume| is_meant_for(volume, claim));
    if waits && claim.annotation(SELECTED_NODE).is_none() && !named {
        set_phase(claim, "Pending", &mut plan);
        let text = "waiting for first consumer to be created before binding";
        plan.event(claim, EventKind::Normal, "WaitForFirstConsumer", text);
    } else if let Some(volume) = best(claim, volumes) {
        bind(claim, volume, &mut plan);
    } else {
        provision(claim, storage_class.as_deref(), &mut plan);
    }
    plan
}

/// No volume fits: a provisioner may make one.
fn provision(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, plan: &mut Plan) {
    let provisioner = class.map(|class| class.provisioner.as_str()).filter(|name| *name != NO_PROVISIONER);
    let Some(provisioner) = provisioner else {
        set_phase(claim, "Pending", plan);
        let name = class_of(claim);
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

fn lose(claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Lost") {
        set_phase(claim, "Lost", plan);
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        plan.event(claim, EventKind::Warning, "ClaimLost", text);
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
            annotations.insert(BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        spec.claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            ..ObjectReference::default()
        });
        // Its event brings the claim back here for the next half.
        plan.update(&after);
        return;
    }
    let mut next = claim.clone();
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.insert(COMPLETED.to_owned(), "yes".to_owned());
    let claim_spec = next.spec.get_or_insert_default();
    if claim_spec.volume_name.as_deref() != Some(volume.name()) {
        claim_spec.volume_name = Some(volume.name().to_owned());
        next.metadata.annotations.get_or_insert_default().insert(BY_CONTROLLER.to_owned(), "yes".to_owned());
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
    let phase = match reference {
        None => "Available",
        Some(reference) if reference.uid.as_ref().is_none_or(String::is_empty) => "Available",
        Some(reference) if claim.is_some_and(|claim| reference.uid.as_deref() == Some(claim.uid())) => {
            "Bound"
        }
        Some(_) => "Released",
    };
    let known = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if known != Some(phase) && !(phase == "Released" && known == Some("Failed")) {
        let mut after = volume.clone();
        after.status.get_or_insert_default().phase = Some(phase.to_owned());
        plan.update_status(&after);
    }
    plan
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

    #[test]
    fn the_smallest_fitting_volume_is_bound_in_three_writes() {
        let mut volumes =
            vec![pv("big", "10Gi", json!({})), pv("fit", "2Gi", json!({})), pv("small", "1Gi", json!({}))];
        let mut wanted = pvc(json!({}));
        let mut log = Vec::new();
        for _ in 0..5 {
            let plan = claim(&wanted, &volumes, &|_| None);
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
            let plan = claim(&pvc(json!({"storageClassName": "s"})), &[], &|_| class.clone());
            plan.steps().last().map(|step| step.summary()).unwrap_or_default()
        };
        assert!(told(Some(class("x", "WaitForFirstConsumer"))).contains("WaitForFirstConsumer"));
        assert!(told(Some(class("x", "Immediate"))).contains("ExternalProvisioning"));
        assert!(told(None).contains("ProvisioningFailed"));
    }
}

//! What changed since pods were last woken, and which waiting pods that can help: upstream's queueing hints. A hint may
//! say yes too often, never no too often.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::core::v1::PersistentVolume;
use api::volumes;
use client::{Key, Meta};

use crate::extender;
use crate::plugins::{affinity, spread, volumes as disks};
use crate::pod::PodInfo;
use crate::queue::Change;
use crate::snapshot::Snapshot;
use crate::storage::Storage;

/// So many pods are looked at one by one; of more than that, any may help anybody.
const MANY: usize = 64;

/// Pods that came or went.
#[derive(Debug, Default)]
pub struct Pods {
    known: Vec<Arc<PodInfo>>,
    more: bool,
}

impl Pods {
    /// Adds one.
    pub fn push(&mut self, pod: Arc<PodInfo>) {
        if self.known.len() < MANY {
            self.known.push(pod);
        } else {
            self.more = true;
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn any(&self, matters: impl Fn(&PodInfo) -> bool) -> bool {
        self.more || self.known.iter().any(|pod| matters(pod))
    }
}

/// A change of what volumes can be had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supply {
    /// A volume: its name, the claim it is for, its class.
    Volume(String, Option<String>, String),
    /// A class, or the room there is in it.
    Class(String),
    /// A driver.
    Driver,
}

impl Supply {
    /// Of a volume that came or changed.
    pub fn of(volume: &PersistentVolume) -> Supply {
        let spec = volume.spec.as_ref();
        let claim = spec.and_then(|spec| spec.claim_ref.as_ref()).map(|claim| {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            format!("{}/{}", text(&claim.namespace), text(&claim.name))
        });
        let class = spec.and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
        Supply::Volume(volume.name().to_owned(), claim, class)
    }

    /// True when it concerns one of the pod's claims.
    fn matters(&self, pod: &PodInfo, storage: &Storage) -> bool {
        pod.claims.iter().any(|used| {
            // Of a claim that is not known yet nothing can be said.
            let Some(claim) = storage.claims.get(&pod.namespace, &used.name) else { return true };
            let class = volumes::class_of(&claim);
            match self {
                Supply::Driver => true,
                Supply::Class(name) => name == class,
                Supply::Volume(name, owner, of) => {
                    let own = Key::of(&*claim).to_string();
                    volumes::volume_name(&claim) == Some(name)
                        || owner.as_ref().map_or(of == class, |owner| *owner == own)
                }
            }
        })
    }
}

/// All changes since the last time: one look at the waiting pods for many.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Nodes that came, went or take more.
    pub nodes: BTreeSet<String>,
    /// Nodes where a pod left or gave back resources.
    pub freed: BTreeSet<String>,
    /// Pods that left, and pods as they were before their labels changed.
    pub gone: Pods,
    /// Pods that were placed, and pods as they are since their labels changed.
    pub placed: Pods,
    /// Claims.
    pub claims: BTreeSet<Key>,
    /// Volumes, classes, drivers.
    pub supplies: BTreeSet<Supply>,
    /// Nodes whose drivers or attachments changed.
    pub storage_nodes: BTreeSet<String>,
    /// Device claims.
    pub device_claims: BTreeSet<Key>,
    /// Changes that may help any pod that waits for their kind.
    pub others: BTreeSet<Change>,
}

/// The plugins that refused a pod.
pub type Refused = BTreeSet<&'static str>;

impl Dirty {
    /// The kinds of change there are.
    pub fn changes(&self) -> BTreeSet<Change> {
        let all = [
            (Change::Node, self.nodes.is_empty()),
            (Change::PodGone, self.freed.is_empty() && self.gone.is_empty()),
            (Change::PodPlaced, self.placed.is_empty()),
            (Change::Claim, self.claims.is_empty()),
            (Change::Volume, self.supplies.is_empty()),
            (Change::StorageNode, self.storage_nodes.is_empty()),
            (Change::Device, self.device_claims.is_empty()),
        ];
        let some = all.into_iter().filter(|(_, empty)| !empty).map(|(change, _)| change);
        some.chain(self.others.iter().copied()).collect()
    }

    /// True when changes of this kind may let a pod be scheduled that these plugins refused. `fits`: whether one of
    /// these nodes by itself could take it.
    pub fn helps(
        &self,
        change: Change,
        pod: &PodInfo,
        refused: &Refused,
        snapshot: &Snapshot,
        fits: impl Fn(&BTreeSet<String>) -> bool,
    ) -> bool {
        if self.others.contains(&change) {
            return true;
        }
        // Nobody knows what an extender looks at.
        let asked = refused.contains(extender::NAME);
        match change {
            Change::Node => refused.contains(spread::NAME) || fits(&self.nodes),
            Change::PodGone => {
                let frees = |other: &PodInfo| asked || departure_helps(pod, refused, other, snapshot);
                self.gone.any(frees) || fits(&self.freed)
            }
            Change::PodPlaced => {
                self.placed.any(|other| asked || arrival_helps(pod, refused, other, snapshot))
            }
            Change::Claim => {
                let mut names = pod.claims.iter().map(|claim| &claim.name);
                asked || names.any(|name| self.claims.contains(&Key::new(&pod.namespace, name)))
            }
            Change::Volume => {
                asked || self.supplies.iter().any(|supply| supply.matters(pod, &snapshot.storage))
            }
            Change::StorageNode => asked || fits(&self.storage_nodes),
            Change::Device => asked || self.device_claims.iter().any(|claim| uses_devices(pod, claim)),
        }
    }
}

/// True when a pod that came may be what this one looks for.
fn arrival_helps(pod: &PodInfo, refused: &Refused, other: &PodInfo, snapshot: &Snapshot) -> bool {
    refused.contains(spread::NAME) && spread::counts(pod, other)
        || refused.contains(affinity::NAME) && affinity::attracts(pod, other, snapshot)
}

/// True when a pod that left may have been what kept this one away.
fn departure_helps(pod: &PodInfo, refused: &Refused, other: &PodInfo, snapshot: &Snapshot) -> bool {
    // The last pod of a group gone, the next may begin the group anywhere.
    arrival_helps(pod, refused, other, snapshot)
        || refused.contains(affinity::NAME) && affinity::repels(pod, other, snapshot)
        || refused.contains(disks::RESTRICTIONS) && disks::may_collide(pod, other)
}

/// True when a pod uses this claim for devices.
fn uses_devices(pod: &PodInfo, claim: &Key) -> bool {
    let (spec, status) = (pod.pod.spec.as_ref(), pod.pod.status.as_ref());
    let asked = spec.and_then(|spec| spec.resource_claims.as_ref()).into_iter().flatten();
    let made = status.and_then(|status| status.resource_claim_statuses.as_ref()).into_iter().flatten();
    let asked = asked.filter_map(|one| one.resource_claim_name.as_deref());
    let mut names = asked.chain(made.filter_map(|one| one.resource_claim_name.as_deref()));
    *pod.namespace == *claim.namespace && names.any(|name| *name == *claim.name)
}

#[cfg(test)]
mod tests {
    use client::Cache;
    use serde_json::{Value, json};

    use super::*;

    fn pod(labels: Value, spec: Value) -> PodInfo {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let object =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "p", "labels": labels}, "spec": spec});
        PodInfo::new(Arc::new(serde_json::from_value(object).expect("a pod")))
    }

    fn near(kind: &str, app: &str) -> Value {
        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"});
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn pods_matter_to_those_that_look_for_them() {
        let snapshot = Snapshot::default();
        let check = |spec: Value, refused: &'static str, other: PodInfo| {
            let (pod, refused) = (pod(json!({"app": "own"}), spec), Refused::from([refused]));
            (
                arrival_helps(&pod, &refused, &other, &snapshot),
                departure_helps(&pod, &refused, &other, &snapshot),
            )
        };
        let x = || pod(json!({"app": "x"}), json!({}));
        let (far, close) = (near("podAntiAffinity", "x"), near("podAffinity", "x"));
        assert_eq!(check(close.clone(), affinity::NAME, x()), (true, true));
        assert_eq!(check(close.clone(), affinity::NAME, pod(json!({"app": "y"}), json!({}))), (false, false));
        assert_eq!(check(far.clone(), affinity::NAME, x()), (false, true), "only that it goes helps");
        assert_eq!(check(far, "NodeResourcesFit", x()), (false, false), "others have refused");
        let hates = pod(json!({"app": "z"}), near("podAntiAffinity", "own"));
        assert_eq!(check(json!({}), affinity::NAME, hates), (false, true));
        let constraint = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]});
        assert_eq!(check(constraint.clone(), spread::NAME, x()), (true, true));
        assert_eq!(check(constraint, spread::NAME, pod(json!({"app": "y"}), json!({}))), (false, false));
        let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        assert_eq!(check(claim.clone(), disks::RESTRICTIONS, pod(json!({}), claim.clone())), (false, true));
        assert_eq!(check(claim, disks::RESTRICTIONS, x()), (false, false));
    }

    #[test]
    fn volumes_matter_to_claims_of_their_class_or_name() {
        let storage = Storage::default();
        let claims: Cache<_> = storage.claims.clone();
        let claim =
            json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"storageClassName": "fast"}});
        claims.put(serde_json::from_value(claim).expect("a claim"));
        let user =
            pod(json!({}), json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}));
        let volume = |spec: Value| {
            let object = json!({"metadata": {"name": "v"}, "spec": spec});
            Supply::of(&serde_json::from_value(object).expect("a volume")).matters(&user, &storage)
        };
        assert!(volume(json!({"storageClassName": "fast"})) && !volume(json!({"storageClassName": "slow"})));
        assert!(volume(json!({"claimRef": {"namespace": "n", "name": "c"}})));
        assert!(!volume(json!({"storageClassName": "fast", "claimRef": {"namespace": "n", "name": "d"}})));
        assert!(Supply::Class("fast".to_owned()).matters(&user, &storage));
        assert!(!Supply::Class("slow".to_owned()).matters(&user, &storage));
        assert!(!Supply::Driver.matters(&pod(json!({}), json!({})), &storage));
    }

    #[test]
    fn devices_matter_to_those_who_claim_them() {
        let user = pod(json!({}), json!({"resourceClaims": [{"name": "r", "resourceClaimName": "c"}]}));
        assert!(uses_devices(&user, &Key::new("n", "c")));
        assert!(!uses_devices(&user, &Key::new("m", "c")) && !uses_devices(&user, &Key::new("n", "d")));
    }

    #[test]
    fn of_many_pods_any_may_help() {
        let mut pods = Pods::default();
        assert!(pods.is_empty() && !pods.any(|_| true));
        (0..MANY).for_each(|_| pods.push(Arc::new(pod(json!({}), json!({})))));
        assert!(!pods.any(|_| false));
        pods.push(Arc::new(pod(json!({}), json!({}))));
        assert!(pods.any(|_| false));
    }
}

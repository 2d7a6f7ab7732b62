//! Binding, beside the decisions: the pod's volumes first (PreBind), then the pod.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use api::k8s::api::resource::v1::{AllocationResult, ResourceClaim};
use api::volumes::{self, BOUND_BY_CONTROLLER, SELECTED_NODE};
use base::Clock;
use client::{Cache, Client, ClientError, Meta};
use tokio::sync::{Semaphore, watch};

use crate::extender::{Extender, ExtenderError};
use crate::plugins::devices;
use crate::plugins::volumes::{BINDING, Binding};
use crate::pod::PodInfo;

/// Why a pod was not bound after a node was chosen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A write was refused.
    #[error(transparent)]
    Write(#[from] ClientError),
    /// The extender that binds did not.
    #[error(transparent)]
    Extender(#[from] ExtenderError),
    /// The pod's volumes cannot be had.
    #[error("running PreBind plugin {BINDING:?}: {what}")]
    Volumes {
        /// What went wrong.
        what: String,
    },
    /// The pod's devices cannot be had.
    #[error("running PreBind plugin {NAME:?}: {what}", NAME = devices::NAME)]
    Devices {
        /// What went wrong.
        what: String,
    },
}

impl BindError {
    fn volumes(what: impl ToString) -> BindError {
        BindError::Volumes { what: what.to_string() }
    }

    /// True when somebody else was faster, or the pod is gone: its watch will say.
    pub fn is_stale(&self) -> bool {
        matches!(self, BindError::Write(error) if error.is_not_found() || error.is_conflict())
    }
}

/// What binding needs; cheap to clone.
#[derive(Clone)]
pub struct Binder {
    /// Writes as the scheduler.
    pub client: Client,
    /// Bounds the writes under way.
    pub writes: Arc<Semaphore>,
    /// Claims as the server has them.
    pub claims: Cache<PersistentVolumeClaim>,
    /// Bumped when claims change.
    pub ticks: watch::Receiver<u64>,
    /// Pods as the server has them.
    pub pods: Cache<Pod>,
    /// Time.
    pub clock: Clock,
    /// How long volumes may take.
    pub timeout: Duration,
    /// Services that have a say.
    pub extenders: Arc<[Extender]>,
}

impl Binder {
    /// Binds volumes, notes the pod in its claims of devices, and then binds the pod to the node.
    pub async fn bind(&self, pod: &PodInfo, node: &str, binding: &Binding) -> Result<(), BindError> {
        if !binding.is_empty() {
            let work = self.bind_volumes(pod, node, binding);
            let text = "binding volumes: context deadline exceeded";
            self.clock.timeout(self.timeout, work).await.ok_or_else(|| BindError::volumes(text))??;
        }
        for (claim, allocation) in &binding.devices {
            self.reserve(claim, allocation.as_ref(), pod).await?;
        }
        // The semaphore is never closed.
        let _permit = self.writes.acquire().await;
        if let Some(extender) =
            self.extenders.iter().find(|one| one.settings().bind.is_some() && one.is_interested(pod))
        {
            return Ok(extender.bind(pod, node).await?);
        }
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        Ok(self.client.bind(&pod.namespace, name, &pod.uid, node).await?)
    }

    /// Writes a claim's allocation and notes the pod in it.
    async fn reserve(
        &self,
        claim: &ResourceClaim,
        allocation: Option<&AllocationResult>,
        pod: &PodInfo,
    ) -> Result<(), BindError> {
        let (namespace, name, uid) = (claim.namespace(), claim.name(), claim.uid());
        let stamped = allocation.map(|allocation| AllocationResult {
            allocation_timestamp: Some(api::k8s::apimachinery::pkg::apis::meta::v1::Time(self.clock.now())),
            ..allocation.clone()
        });
        let mut now = claim.clone();
        for last in [false, false, false, true] {
            let outcome = async {
                if let Some(after) = devices::protected(&now).filter(|_| allocation.is_some()) {
                    now = self.client.update(&after).await?;
                }
                if let Some(after) = devices::reserved(&now, pod, stamped.as_ref()) {
                    self.client.update_status(&after).await?;
                }
                Ok::<(), ClientError>(())
            }
            .await;
            match outcome {
                Err(error) if error.is_conflict() && !last => {
                    now = self.client.get::<ResourceClaim>(namespace, name).await?;
                    let other = now.uid() != uid;
                    if other || allocation.is_some() == devices::is_allocated(&now) {
                        let what = format!("claim {namespace}/{name} was changed by somebody else");
                        return Err(BindError::Devices { what });
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
        Ok(())
    }

    async fn bind_volumes(&self, pod: &PodInfo, node: &str, binding: &Binding) -> Result<(), BindError> {
        let mut written = Vec::new();
        {
            let _permit = self.writes.acquire().await;
            for (volume, claim) in &binding.volumes {
                if let Some(after) = claimed(volume, claim) {
                    self.client.update(&after).await.map_err(BindError::volumes)?;
                }
                written.push((claim.clone(), claim.revision(), false));
            }
            for claim in &binding.provisions {
                let mut after = (**claim).clone();
                let annotations = after.metadata.annotations.get_or_insert_default();
                annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
                let revision = if after == **claim {
                    claim.revision()
                } else {
                    self.client.update(&after).await.map_err(BindError::volumes)?.revision()
                };
                written.push((claim.clone(), revision, true));
            }
        }
        let mut ticks = self.ticks.clone();
        loop {
            ticks.mark_unchanged();
            if self.is_bound(pod, node, &written)? {
                return Ok(());
            }
            ticks.changed().await.map_err(BindError::volumes)?;
        }
    }

    /// True when all claims are bound. An error when they never will be.
    fn is_bound(
        &self,
        pod: &PodInfo,
        node: &str,
        written: &[(Arc<PersistentVolumeClaim>, u64, bool)],
    ) -> Result<bool, BindError> {
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        if self.pods.get(&pod.namespace, name).is_none_or(|known| known.uid() != pod.uid) {
            return Err(BindError::volumes(format!("pod does not exist any more: pod {name:?} not found")));
        }
        let mut all = true;
        for (claim, revision, provisioned) in written {
            let name = claim.name();
            let Some(now) = self.claims.get(claim.namespace(), name).filter(|now| now.uid() == claim.uid())
            else {
                let text =
                    format!("failed to check provisioning pvc: persistentvolumeclaim {name:?} not found");
                return Err(BindError::volumes(text));
            };
            if now.revision() < *revision {
                all = false;
            } else if *provisioned && volumes::selected_node(&now) != Some(node) {
                return Err(BindError::volumes(format!("provisioning failed for PVC {name:?}")));
            } else {
                all &= volumes::is_bound(&now);
            }
        }
        Ok(all)
    }
}

/// The volume with its reference to the claim; `None` when it has that already.
fn claimed(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut after = volume.clone();
    let spec = after.spec.get_or_insert_default();
    let known = spec.claim_ref.as_ref();
    if known.is_some_and(|known| known.uid == claim.metadata.uid) {
        return None;
    }
    let fresh = known.is_none();
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    if fresh {
        let annotations = after.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(after)
}

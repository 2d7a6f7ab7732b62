//! What the scheduler knows of storage: shared caches, and volumes given away before the server says so.

use std::collections::{BTreeMap, BTreeSet};

use api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use api::k8s::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use client::Cache;

/// Caches of what volumes depend on. Clones share the caches.
#[derive(Clone, Default)]
pub struct Storage {
    /// Claims.
    pub claims: Cache<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Cache<PersistentVolume>,
    /// StorageClasses.
    pub classes: Cache<StorageClass>,
    /// CSI drivers: which of them tell their capacity.
    pub drivers: Cache<CSIDriver>,
    /// How much a driver can give where.
    pub capacities: Cache<CSIStorageCapacity>,
    /// What drivers nodes have, and how many volumes they take.
    pub nodes: Cache<CSINode>,
    /// What is attached where.
    pub attachments: Cache<VolumeAttachment>,
    /// Volumes chosen for claims of pods that are being bound: volume to `namespace/claim`.
    assumed: BTreeMap<String, String>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("assumed", &self.assumed).finish_non_exhaustive()
    }
}

impl Storage {
    /// Gives a volume to a claim before that is written.
    pub fn assume(&mut self, volume: &str, claim: &str) {
        self.assumed.insert(volume.to_owned(), claim.to_owned());
    }

    /// Takes back what was given to a claim, or has been written.
    pub fn forget(&mut self, claim: &str) {
        self.assumed.retain(|_, owner| owner != claim);
    }

    /// Volumes that other claims have been given.
    pub fn taken(&self, claim: &str) -> BTreeSet<String> {
        self.assumed.iter().filter(|(_, owner)| *owner != claim).map(|(name, _)| name.clone()).collect()
    }
}

//! Local volumes: directories of this node, made for the first pod that uses one, removed when the cluster says so.
//!
//! The node tells in an annotation of its Node object where it keeps them. The provisioner asks for a removal by
//! another annotation, and learns from it that it is done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, PersistentVolume};
use api::volumes::{LOCAL, LOCAL_DIRECTORY, LOCAL_REMOVE, LOCAL_REMOVED, PROVISIONED_BY};
use base::tasks::blocking;
use client::{Informer, Meta, Patch};
use serde_json::{Value, json};

use super::{VolumeError, fail};
use crate::shared::Shared;

/// The directory of local volumes below the agent's own.
pub const DIRECTORY: &str = "local-volumes";
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Makes a volume's directory below `root` if it is one of ours and not there yet.
pub fn make(root: &Path, volume: &PersistentVolume) -> Result<(), VolumeError> {
    let source = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
    let Some(path) = source.map(|source| Path::new(&source.path)) else { return Ok(()) };
    if volume.annotation(PROVISIONED_BY) != Some(LOCAL) || path != root.join(volume.name()) || path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(fail("make", path))?;
    // Whatever user a container runs as, the volume is its own to write.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(fail("open", path))
}

/// Tells where volumes are kept, and removes those that are to go, until cancelled.
pub async fn run(shared: Arc<Shared>, node: Arc<Informer<Node>>) {
    let root = shared.config.root_dir.join(DIRECTORY);
    let mut ticks = node.ticks();
    node.synced().await;
    loop {
        ticks.mark_unchanged();
        let changes = match node.cache().get("", &shared.config.node_name) {
            Some(node) => changes(&root, &node).await,
            None => Value::Null,
        };
        if !changes.is_null() {
            let patch = Patch::Merge(json!({"metadata": {"annotations": changes}}));
            if let Err(error) = shared.client.patch::<Node>("", &shared.config.node_name, &patch).await {
                tracing::debug!(%error, "node annotations of volumes not written");
                shared.clock.sleep(RETRY).await;
                continue;
            }
        }
        if ticks.changed().await.is_err() {
            return;
        }
    }
}

/// What the node's annotations should say and do not; null when they do. Removes directories on the way.
async fn changes(root: &Path, node: &Node) -> Value {
    let mut changes = serde_json::Map::new();
    let path = root.to_string_lossy();
    if node.annotation(LOCAL_DIRECTORY) != Some(&path) {
        changes.insert(LOCAL_DIRECTORY.to_owned(), json!(path));
    }
    for name in removals(node) {
        let dir = root.join(&name);
        if blocking(move || remove(&dir)).await {
            changes.insert(format!("{LOCAL_REMOVE}{name}"), json!(LOCAL_REMOVED));
        }
    }
    if changes.is_empty() { Value::Null } else { Value::Object(changes) }
}

/// Names of volumes whose directories are to go.
fn removals(node: &Node) -> Vec<String> {
    let annotations = node.metadata.annotations.iter().flatten();
    let open = annotations.filter(|(_, value)| *value != LOCAL_REMOVED);
    let names = open.filter_map(|(key, _)| key.strip_prefix(LOCAL_REMOVE));
    names.filter(|name| api::names::dns1123_subdomain(name).is_empty()).map(str::to_owned).collect()
}

/// True when the directory is gone.
fn remove(dir: &PathBuf) -> bool {
    match fs::remove_dir_all(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "a volume's directory cannot be removed yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directories_come_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join(DIRECTORY);
        let path = root.join("pvc-1");
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": "pvc-1", "annotations": {PROVISIONED_BY: LOCAL}},
            "spec": {"local": {"path": path}},
        }))
        .expect("a volume");
        make(&root, &volume).expect("made");
        fs::write(path.join("data"), b"x").expect("written");
        make(&root, &volume).expect("there already");
        assert!(path.join("data").exists());
        let mut other = volume.clone();
        other.metadata.name = Some("pvc-2".to_owned());
        make(&root, &other).expect("not ours");
        assert!(!root.join("pvc-2").exists(), "a path that is not the volume's own");
        let node: Node = serde_json::from_value(json!({"metadata": {"annotations": {
            LOCAL_DIRECTORY: root, "remove.local.navarch.io/pvc-1": "please",
            "remove.local.navarch.io/..": "please", "remove.local.navarch.io/pvc-0": "done"}}}))
        .expect("a node");
        assert_eq!(changes(&root, &node).await, json!({"remove.local.navarch.io/pvc-1": "done"}));
        assert!(!path.exists() && root.exists());
    }
}

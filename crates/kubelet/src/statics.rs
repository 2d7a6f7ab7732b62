//! Static pods: manifests in a directory, run without the API server, and their mirrors in the API.
//!
//! Must not know how pods run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Pod, PodStatus};
use api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use api::wire::Wire;
use client::{ClientError, DeleteOptions, Patch};
use machinery::codec::yaml;
use tokio::sync::mpsc;

use crate::pods::manager::Wanted;
use crate::pods::pod::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE, PodExt};
use crate::pods::registry::Signal;
use crate::pods::report;
use crate::shared::Shared;

/// Static pods by uid.
pub type Known = BTreeMap<String, Arc<Pod>>;

/// Reads the directory once and tells what is there.
pub fn load(shared: &Shared, dir: &Path, wanted: &mpsc::UnboundedSender<Wanted>) -> Known {
    let pods = read(dir, &shared.config.node_name);
    let known: Known = pods.into_iter().map(|pod| (pod.uid().to_owned(), Arc::new(pod))).collect();
    for pod in known.values() {
        let _ = wanted.send(Wanted::Pod(pod.clone()));
    }
    known
}

/// Reads the directory again and again and tells what changed.
pub async fn watch(
    shared: Arc<Shared>,
    dir: PathBuf,
    mut known: Known,
    wanted: mpsc::UnboundedSender<Wanted>,
) {
    loop {
        shared.clock.sleep(shared.config.file_period).await;
        let node = shared.config.node_name.clone();
        let path = dir.clone();
        let found = base::tasks::blocking(move || read(&path, &node)).await;
        let uids: BTreeMap<String, Arc<Pod>> =
            found.into_iter().map(|pod| (pod.uid().to_owned(), Arc::new(pod))).collect();
        for (uid, pod) in &known {
            if !uids.contains_key(uid) {
                let _ = wanted.send(Wanted::Gone(pod.clone()));
                remove_mirror(&shared, pod).await;
            }
        }
        for (uid, pod) in &uids {
            if !known.contains_key(uid) {
                let _ = wanted.send(Wanted::Pod(pod.clone()));
            }
        }
        known = uids;
    }
}

/// The pods of a directory; files that cannot be read are logged and left out.
fn read(dir: &Path, node: &str) -> Vec<Pod> {
    let mut pods = Vec::new();
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        match parse(&path, node) {
            Ok(pod) => pods.push(pod),
            Err(error) => tracing::warn!(path = %path.display(), error, "manifest not used"),
        }
    }
    pods
}

/// A manifest as a pod of this node: its name ends with the node's, its uid is made from its content.
fn parse(path: &Path, node: &str) -> Result<Pod, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let document = yaml::decode_first(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut pod = Pod::from_tree(&document.value).map_err(|error| error.to_string())?;
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{node}\0{}\0{text}", path.display()).as_bytes());
    let uid: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{}-{node}", meta.name.clone().unwrap_or_default()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(uid.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(CONFIG_HASH.to_owned(), uid);
    let spec = pod.spec.as_mut().ok_or("no spec")?;
    spec.node_name = Some(node.to_owned());
    spec.enable_service_links.get_or_insert(true);
    // What the API server would set.
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    tolerations.push(api::k8s::api::core::v1::Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    });
    Ok(pod)
}

/// A pod's mirror: what the API shows of it.
fn mirror(shared: &Shared, pod: &Pod, node: Option<&Node>) -> Pod {
    let mut mirror = pod.clone();
    let hash = pod.annotation(CONFIG_HASH).unwrap_or("").to_owned();
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.to_owned(), hash);
    if let Some(node) = node {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: shared.config.node_name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            ..Default::default()
        }]);
    }
    mirror.status = None;
    mirror
}

/// Writes a static pod's status to its mirror, which is made if need be.
pub async fn report(shared: &Shared, pod: &Pod, status: &PodStatus) -> Result<(), ClientError> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let hash = pod.annotation(CONFIG_HASH).unwrap_or("");
    let known = shared.registry.mirror(hash).filter(|mirror| !mirror.deleting());
    let current = match known {
        Some(mirror) => mirror,
        None => Arc::new(make_mirror(shared, pod, hash).await?),
    };
    let mut status = status.clone();
    status.observed_generation = current.metadata.generation;
    let mut body = report::patch(pod, &status);
    body["metadata"]["uid"] = current.uid().into();
    shared.client.patch_status::<Pod>(namespace, name, &Patch::Strategic(body)).await.map(drop)
}

/// Creates a mirror. A node may not look for one that it has none of: it finds out by being refused.
async fn make_mirror(shared: &Shared, pod: &Pod, hash: &str) -> Result<Pod, ClientError> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let refused = match shared.client.create(&mirror(shared, pod, node(shared).await.as_ref())).await {
        Err(error) if error.is_already_exists() => error,
        answer => return answer,
    };
    let current = shared.client.get::<Pod>(namespace, name).await?;
    if current.annotation(CONFIG_MIRROR) == Some(hash) && !current.deleting() {
        return Ok(current);
    }
    // A stale one goes; this report is tried again.
    let options = DeleteOptions::uid(current.uid()).grace(0);
    shared.client.delete::<Pod>(namespace, name, &options).await?;
    Err(refused)
}

async fn node(shared: &Shared) -> Option<Node> {
    shared.client.get_opt::<Node>("", &shared.config.node_name).await.ok().flatten()
}

async fn remove_mirror(shared: &Shared, pod: &Pod) {
    if let Some(mirror) = shared.registry.mirror(pod.uid()) {
        let options = DeleteOptions::uid(mirror.uid()).grace(0);
        let _ = shared.client.delete::<Pod>(mirror.namespace(), mirror.name(), &options).await;
    }
}

/// A mirror is gone: its static pod, if it still runs, gets another.
pub fn mirror_gone(shared: &Shared, mirror: &Pod) {
    let uid = mirror.annotation(CONFIG_MIRROR).unwrap_or("");
    if shared.registry.mirror(uid).is_some_and(|known| known.uid() == mirror.uid()) {
        shared.registry.set_mirror(uid, None);
        shared.registry.tell(uid, Signal::Report);
    }
}

/// A mirror changed: one without its static pod goes, one that was deleted comes back.
pub fn mirror_seen(shared: &Arc<Shared>, mirror: &Arc<Pod>) {
    let hash = mirror.annotation(CONFIG_MIRROR).unwrap_or("").to_owned();
    shared.registry.set_mirror(&hash, Some(mirror.clone()));
    let known = shared.registry.contains(&hash);
    if known && !mirror.deleting() {
        return;
    }
    let (task_shared, mirror) = (shared.clone(), mirror.clone());
    shared.tasks.spawn("mirror", async move {
        let options = DeleteOptions::uid(mirror.uid()).grace(0);
        let _ = task_shared.client.delete::<Pod>(mirror.namespace(), mirror.name(), &options).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_become_pods_of_the_node() {
        let dir = tempfile::tempdir().expect("a directory");
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        std::fs::write(dir.path().join("a.yaml"), text).expect("written");
        std::fs::write(dir.path().join("bad.yaml"), "[").expect("written");
        let pods = read(dir.path(), "node");
        assert_eq!((pods.len(), pods[0].name(), pods[0].namespace()), (1, "web-node", "default"));
        assert!(pods[0].is_static() && !pods[0].is_mirror());
        std::fs::write(dir.path().join("a.yaml"), text.replace('x', "z")).expect("written");
        assert_ne!(read(dir.path(), "node")[0].uid(), pods[0].uid());
    }
}

//! Which pods have a worker: those bound to this node and those in files; and what is left of others.
//!
//! Must not know how a pod runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod};
use client::{Change, Informer};
use runtime::cri::messages as m;
use tokio::sync::mpsc;

use super::admit;
use super::observed::{Observed, container, keys};
use super::ops;
use super::pod::PodExt;
use super::registry::{Entry, Signal};
use super::worker;
use crate::shared::Shared;

/// How often left-overs are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// A change of what is wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// This pod is to run, or has changed.
    Pod(Arc<Pod>),
    /// This pod is no longer wanted.
    Gone(Arc<Pod>),
}

/// Feeds workers until cancelled.
pub async fn run(
    shared: Arc<Shared>,
    pods: Option<Arc<Informer<Pod>>>,
    node: Option<Arc<Informer<Node>>>,
    mut statics: mpsc::UnboundedReceiver<Wanted>,
) {
    let mut changes = match &pods {
        Some(pods) => pods.subscribe(),
        None => mpsc::unbounded_channel().1,
    };
    if let Some(pods) = &pods {
        pods.synced().await;
    }
    let mut first_sweep = true;
    loop {
        let wait = if first_sweep { Duration::from_secs(1) } else { SWEEP };
        let wanted = tokio::select! {
            biased;
            Some(wanted) = statics.recv() => vec![wanted],
            Some(change) = changes.recv() => of_change(change),
            () = shared.clock.sleep(wait) => Vec::new(),
        };
        if wanted.is_empty() {
            first_sweep = false;
            sweep(&shared).await;
        }
        for wanted in wanted {
            match wanted {
                Wanted::Pod(pod) => want(&shared, pod, node.as_deref()),
                Wanted::Gone(pod) if pod.is_mirror() => crate::statics::mirror_gone(&shared, &pod),
                Wanted::Gone(pod) => {
                    shared.registry.tell(pod.uid(), Signal::Gone);
                }
            }
        }
    }
}

fn of_change(change: Change<Pod>) -> Vec<Wanted> {
    match change {
        Change::Added(pod) => vec![Wanted::Pod(pod)],
        // Deleted and made anew while the watch was away.
        Change::Modified { old, new } if old.uid() != new.uid() => vec![Wanted::Gone(old), Wanted::Pod(new)],
        Change::Modified { new, .. } => vec![Wanted::Pod(new)],
        Change::Deleted(pod) => vec![Wanted::Gone(pod)],
    }
}

fn want(shared: &Arc<Shared>, pod: Arc<Pod>, node: Option<&Informer<Node>>) {
    if pod.is_mirror() {
        crate::statics::mirror_seen(shared, &pod);
        return;
    }
    let uid = pod.uid().to_owned();
    if shared.registry.contains(&uid) {
        shared.registry.set_pod(&uid, pod.clone());
        shared.registry.tell(&uid, Signal::Wanted(pod));
        return;
    }
    let begun = pod.status().start_time.is_some();
    let verdict = if pod.finished() || pod.deleting() || begun || pod.is_static() {
        None
    } else {
        let others = shared.registry.others(&uid);
        let object = node.and_then(|node| node.cache().get("", &shared.config.node_name));
        let facts = admit::Facts {
            allocatable: &shared.allocatable,
            node: object.as_deref(),
            others: &others,
            unsafe_sysctls: &shared.config.unsafe_sysctls,
            pressures: &shared.pressures.now(),
            ending: shared.shutdown.begun(),
        };
        admit::check(&pod, &facts).or_else(|| shared.devices.allocate(&pod).err())
    };
    if let Some(verdict) = &verdict {
        shared.events.pod(&pod, client::EventKind::Warning, &verdict.reason, &verdict.message);
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let entry =
        Entry { pod: pod.clone(), status: None, worker: sender, containers: BTreeMap::new(), sandbox: None };
    shared.registry.insert(&uid, entry);
    let shared = shared.clone();
    let tasks = shared.tasks.clone();
    tasks.spawn("pod", async move {
        worker::run(shared.clone(), pod, verdict, receiver).await;
        shared.registry.remove(&uid);
    });
}

/// Ends and removes what the runtime and the disk hold of pods that nobody wants: those deleted while the agent
/// was away.
async fn sweep(shared: &Arc<Shared>) {
    let sandboxes = match shared.cri.list_pod_sandbox(m::ListPodSandboxRequest { filter: None }).await {
        Ok(answer) => answer.items,
        Err(error) => {
            tracing::warn!(%error, "left-overs not looked for");
            return;
        }
    };
    let ours = |labels: &BTreeMap<String, String>| {
        labels.get(ops::NODE_LABEL).is_none_or(|node| *node == shared.config.node_name)
    };
    let mut in_runtime = BTreeSet::new();
    let mut orphans: BTreeMap<String, Vec<m::PodSandbox>> = BTreeMap::new();
    for sandbox in sandboxes {
        let uid = sandbox.labels.get(keys::POD_UID).cloned().unwrap_or_default();
        in_runtime.insert(uid.clone());
        if !uid.is_empty() && ours(&sandbox.labels) && !shared.registry.contains(&uid) {
            orphans.entry(uid).or_default().push(sandbox);
        }
    }
    for (uid, sandboxes) in orphans {
        if let Err(error) = end_orphan(shared, &uid, &sandboxes).await {
            tracing::warn!(uid, %error, "left-over pod not removed");
        }
    }
    for uid in shared.store.uids() {
        if !shared.registry.contains(&uid) && !in_runtime.contains(&uid) {
            let store = shared.store.clone();
            base::tasks::blocking(move || {
                if let Err(error) = store.remove(&uid) {
                    tracing::warn!(uid, %error, "left-over volumes not removed");
                }
            })
            .await;
        }
    }
    sweep_groups(shared, &in_runtime);
}

fn sweep_groups(shared: &Shared, in_runtime: &BTreeSet<String>) {
    for class in ["", "/burstable", "/besteffort"] {
        let parent = format!("{}/kubepods{class}", shared.config.cgroup_root);
        if shared.systemd {
            continue;
        }
        for child in shared.cgroups.children(&parent) {
            let Some(uid) = child.strip_prefix("pod") else { continue };
            if !shared.registry.contains(uid) && !in_runtime.contains(uid) {
                let _ = shared.cgroups.remove(&format!("{parent}/{child}"));
            }
        }
    }
}

/// Stops an orphan as its annotations ask, then removes it.
async fn end_orphan(
    shared: &Arc<Shared>,
    uid: &str,
    sandboxes: &[m::PodSandbox],
) -> Result<(), runtime::CriError> {
    let selector: BTreeMap<_, _> = [(keys::POD_UID.to_owned(), uid.to_owned())].into();
    let filter = m::ContainerFilter { label_selector: selector, ..m::ContainerFilter::default() };
    let containers =
        shared.cri.list_containers(m::ListContainersRequest { filter: Some(filter) }).await?.containers;
    let metadata = sandboxes.first().and_then(|sandbox| sandbox.metadata.clone()).unwrap_or_default();
    tracing::info!(
        namespace = metadata.namespace,
        name = metadata.name,
        uid,
        "removing a pod that nobody wants"
    );
    let mut pod = Pod::default();
    pod.metadata.name = Some(metadata.name);
    pod.metadata.namespace = Some(metadata.namespace);
    pod.metadata.uid = Some(uid.to_owned());
    let mut observed = Observed::default();
    for item in containers {
        let grace = item.annotations.get(keys::POD_GRACE).and_then(|text| text.parse().ok()).unwrap_or(30);
        if item.state == m::ContainerState::Running as i32 {
            shared.cri.stop_container(&item.id, ops::grace_of(grace)).await?;
        }
        let request = m::ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        if let Ok(m::ContainerStatusResponse { status: Some(status), .. }) =
            shared.cri.container_status(request).await
        {
            observed.containers.push(container(&status, &item.pod_sandbox_id));
        }
    }
    let ids: Vec<String> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    ops::stop_sandboxes(shared, &ids).await;
    observed.sandboxes = ids
        .into_iter()
        .map(|id| super::observed::Sandbox { id, ..super::observed::Sandbox::default() })
        .collect();
    ops::remove_from_runtime(shared, &pod, &observed).await;
    Ok(())
}

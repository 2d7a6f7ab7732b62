//! What is done now and then: logs rotated, unused images removed, volumes that outgrew their limit ended.
//!
//! Must not touch what runs, except to end a pod that broke its limit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Pod;
use base::tasks::blocking;
use runtime::cri::messages as m;

use crate::amount;
use crate::pods::pod::PodExt;
use crate::pods::registry::Signal;
use crate::pods::status::Verdict;
use crate::shared::Shared;
use crate::stats::{self, summary::DiskUse};

/// How often the disk is looked at for images to remove.
const IMAGES_PERIOD: Duration = Duration::from_secs(300);

/// Keeps house until cancelled.
pub async fn run(shared: Arc<Shared>) {
    let mut images_at = shared.clock.monotonic() + IMAGES_PERIOD;
    loop {
        shared.clock.sleep(shared.config.log_period).await;
        rotate_logs(&shared).await;
        check_volumes(&shared).await;
        check_storage(&shared).await;
        if shared.clock.monotonic() >= images_at {
            images_at = shared.clock.monotonic() + IMAGES_PERIOD;
            shared.collector.keep_room(&shared).await;
        }
    }
}

/// Moves logs that are too large aside and tells the runtime.
async fn rotate_logs(shared: &Arc<Shared>) {
    let limit = shared.config.log_max_bytes;
    let mut live = Vec::new();
    for entry in shared.registry.all() {
        let dir = crate::container::sandbox::log_dir(&shared.config.log_dir.to_string_lossy(), &entry.pod);
        live.extend(entry.containers.into_iter().map(|(name, id)| (PathBuf::from(&dir).join(name), id)));
    }
    if limit == 0 || live.is_empty() {
        return;
    }
    let found = blocking(move || {
        let large =
            |(dir, id): (PathBuf, String)| Some((newest_log(&dir).filter(|path| size(path) >= limit)?, id));
        live.into_iter().filter_map(large).collect::<Vec<_>>()
    })
    .await;
    for (path, id) in found {
        let status = shared
            .cri
            .container_status(m::ContainerStatusRequest { container_id: id.clone(), verbose: false });
        let running = status.await.ok().and_then(|answer| answer.status);
        if running.is_none_or(|status| status.state != m::ContainerState::Running as i32) {
            continue;
        }
        let now = shared.clock.now().to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
        let keep = shared.config.log_max_files;
        let (from, to) = (path.clone(), PathBuf::from(format!("{}.{now}", path.display())));
        let aside = to.clone();
        if !blocking(move || std::fs::rename(&from, &to).is_ok()).await {
            continue;
        }
        let reopened =
            shared.cri.reopen_container_log(m::ReopenContainerLogRequest { container_id: id }).await;
        blocking(move || match reopened {
            Ok(_) => drop_old_logs(&path, keep),
            // The runtime still writes to the old file: give it its name back.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "log not rotated");
                let _ = std::fs::rename(&aside, &path);
            }
        })
        .await;
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// `<n>.log` with the largest n.
fn newest_log(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let numbered = entries.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().strip_suffix(".log")?.parse::<u32>().ok()?;
        Some((number, entry.path()))
    });
    numbered.max().map(|(_, path)| path)
}

/// Keeps the newest files beside the current one.
fn drop_old_logs(current: &Path, keep: usize) {
    let name = current.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries =
        current.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut old: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{name}.")))
        .map(|entry| entry.path())
        .collect();
    old.sort();
    old.reverse();
    for path in old.into_iter().skip(keep.saturating_sub(1)) {
        let _ = std::fs::remove_file(path);
    }
}

/// Ends pods whose emptyDir volumes hold more than their limit.
async fn check_volumes(shared: &Arc<Shared>) {
    for entry in
        shared.registry.all().into_iter().filter(|entry| !entry.pod.deleting() && !entry.pod.finished())
    {
        let limits = size_limits(&entry.pod);
        if limits.is_empty() {
            continue;
        }
        let dir = shared.store.pod_dir(entry.pod.uid()).join("volumes/kubernetes.io~empty-dir");
        let broken = blocking(move || {
            let over = |(name, limit): &(String, u64)| runtime::disk::taken(&dir.join(name)).bytes > *limit;
            limits.into_iter().find(|row| over(row))
        })
        .await;
        if let Some((name, limit)) = broken {
            let limit = amount::bytes_text(i64::try_from(limit).unwrap_or(i64::MAX)).0;
            end(
                shared,
                &entry.pod,
                format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "),
            );
        }
    }
}

/// Ends a pod that broke its limit.
fn end(shared: &Shared, pod: &Pod, message: String) {
    shared.events.pod(pod, client::EventKind::Warning, "Evicted", &message);
    let verdict = Verdict { reason: "Evicted".into(), message, grace: Some(1), disrupted: false };
    shared.registry.tell(pod.uid(), Signal::Evict(verdict));
}

/// Ends pods whose containers' own files and logs, or whose volumes with them, hold more than their limit.
async fn check_storage(shared: &Arc<Shared>) {
    let limited = |pod: &Pod| storage_limits(pod).next().is_some() && !pod.deleting() && !pod.finished();
    if !shared.registry.all().iter().any(|entry| limited(&entry.pod)) {
        return;
    }
    let mut used = stats::read(shared).await.pods;
    used.retain(|one| limited(&one.entry.pod));
    let disks = stats::summary::on_disks(shared, &used).await;
    for one in &used {
        let pod = &one.entry.pod;
        let Some(message) = disks.get(pod.uid()).and_then(|disk| over_limit(pod, disk)) else { continue };
        end(shared, pod, message);
    }
}

/// Containers' limits of local storage, bytes.
fn storage_limits(pod: &Pod) -> impl Iterator<Item = (&str, u64)> {
    pod.apps().iter().filter_map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref();
        let limit = amount::whole_of(limits, "ephemeral-storage")?;
        Some((container.name.as_str(), u64::try_from(limit).ok().filter(|limit| *limit > 0)?))
    })
}

/// The limit that is broken, in words.
fn over_limit(pod: &Pod, disk: &DiskUse) -> Option<String> {
    let text = |bytes: u64| amount::bytes_text(i64::try_from(bytes).unwrap_or(i64::MAX)).0;
    let limits: Vec<(&str, u64)> = storage_limits(pod).collect();
    for (name, limit) in &limits {
        if disk.containers.get(*name).is_some_and(|used| used > limit) {
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit {:?}. ",
                text(*limit)
            ));
        }
    }
    let total: u64 = limits.iter().map(|row| row.1).sum();
    let whole = limits.len() == pod.apps().len() && disk.bytes > total;
    let what = "Pod ephemeral local storage usage exceeds the total limit of containers";
    whole.then(|| format!("{what} {}. ", text(total)))
}

/// emptyDir volumes on disk with a limit.
fn size_limits(pod: &Pod) -> Vec<(String, u64)> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|volume| {
            let source =
                volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
            let limit = u64::try_from(amount::whole(&source.size_limit.as_ref()?.0))
                .ok()
                .filter(|limit| *limit > 0)?;
            Some((volume.name.clone(), limit))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_local_storage() {
        let pod = |limits: [Option<&str>; 2]| -> Pod {
            let container = |(index, limit): (usize, &Option<&str>)| {
                let resources =
                    limit.map(|limit| serde_json::json!({"limits": {"ephemeral-storage": limit}}));
                serde_json::json!({"name": format!("c{index}"), "resources": resources.unwrap_or_default()})
            };
            let containers: Vec<_> = limits.iter().enumerate().map(container).collect();
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}),
            )
            .expect("a pod")
        };
        let disk = |bytes: u64, first: u64| DiskUse {
            bytes: bytes << 20,
            containers: [("c0".to_owned(), first << 20)].into(),
            ..DiskUse::default()
        };
        for (limits, disk, expect) in [
            ([Some("10Mi"), None], disk(5, 5), None),
            (
                [Some("10Mi"), None],
                disk(11, 11),
                Some("Container c0 exceeded its local ephemeral storage limit \"10Mi\". "),
            ),
            ([Some("10Mi"), None], disk(99, 5), None),
            (
                [Some("10Mi"), Some("10Mi")],
                disk(21, 5),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. "),
            ),
        ] {
            assert_eq!(over_limit(&pod(limits), &disk).as_deref(), expect, "{limits:?} {disk:?}");
        }
    }

    #[test]
    fn old_logs_go() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in
            ["0.log", "2.log", "2.log.20260101-000000", "2.log.20260102-000000", "2.log.20260103-000000"]
        {
            std::fs::write(dir.path().join(name), name).expect("written");
        }
        let newest = newest_log(dir.path()).expect("found");
        assert_eq!(newest, dir.path().join("2.log"));
        drop_old_logs(&newest, 2);
        assert!(
            dir.path().join("2.log.20260103-000000").exists()
                && !dir.path().join("2.log.20260102-000000").exists()
        );
        assert!(dir.path().join("0.log").exists());
    }
}

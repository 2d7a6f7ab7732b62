//! Asking the runtime what it holds of a pod.
//!
//! Must not decide anything about it.

use std::path::{Path, PathBuf};

use api::k8s::api::core::v1::Pod;
use runtime::cri::messages as m;
use runtime::{Cri, CriError};

use super::observed::{Observed, Seen, State, container, keys, sandbox};
use super::pod::PodExt;

/// The most of a termination message that is kept, bytes.
const MESSAGE_BYTES: u64 = 4096;
/// The most of a log that stands in for a termination message: bytes and lines.
const LOG_BYTES: u64 = 2048;
const LOG_LINES: usize = 80;

/// Everything the runtime holds of a pod.
pub async fn observe(cri: &Cri, pod: &Pod) -> Result<Observed, CriError> {
    let selector: std::collections::BTreeMap<_, _> =
        [(keys::POD_UID.to_owned(), pod.uid().to_owned())].into();
    let filter = m::PodSandboxFilter { label_selector: selector.clone(), ..m::PodSandboxFilter::default() };
    let sandboxes = cri.list_pod_sandbox(m::ListPodSandboxRequest { filter: Some(filter) }).await?.items;
    let mut observed = Observed::default();
    if sandboxes.is_empty() {
        return Ok(observed);
    }
    for item in sandboxes {
        let request = m::PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: false };
        match cri.pod_sandbox_status(request).await {
            Ok(answer) => observed.sandboxes.extend(answer.status.iter().map(sandbox)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let filter = m::ContainerFilter { label_selector: selector, ..m::ContainerFilter::default() };
    let containers = cri.list_containers(m::ListContainersRequest { filter: Some(filter) }).await?.containers;
    for item in containers {
        let request = m::ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        match cri.container_status(request).await {
            Ok(answer) => {
                if let Some(status) = answer.status {
                    let mut seen = container(&status, &item.pod_sandbox_id);
                    add_message(&mut seen, &status);
                    observed.containers.push(seen);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    observed.sort();
    Ok(observed)
}

/// The termination message: from its file, else from the log where the container asks for that.
fn add_message(seen: &mut Seen, status: &m::ContainerStatus) {
    if seen.state != State::Exited {
        return;
    }
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or("");
    let path = annotation(keys::MESSAGE_PATH);
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let text = mount
        .and_then(|mount| read_tail(Path::new(&mount.host_path), MESSAGE_BYTES, false))
        .unwrap_or_default();
    let fall_back = annotation(keys::MESSAGE_POLICY) == "FallbackToLogsOnError";
    let text = if text.is_empty() && fall_back && seen.exit_code != 0 {
        last_log_lines(&PathBuf::from(&status.log_path))
    } else {
        text
    };
    if !text.is_empty() {
        seen.message = if status.message.is_empty() { text } else { format!("{}: {text}", status.message) };
    }
}

/// The first (or last) bytes of a file that is not a link.
fn read_tail(path: &Path, limit: u64, from_end: bool) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let meta = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut file = std::fs::File::open(path).ok()?;
    if from_end && meta.len() > limit {
        file.seek(SeekFrom::Start(meta.len() - limit)).ok()?;
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a CRI log without their prefixes.
fn last_log_lines(path: &Path) -> String {
    // The prefixes take room too.
    let raw = read_tail(path, LOG_BYTES * 4, true).unwrap_or_default();
    let mut lines: Vec<String> = raw.lines().filter_map(log_text).collect();
    let skip = lines.len().saturating_sub(LOG_LINES);
    let mut text = lines.split_off(skip).concat();
    let limit = usize::try_from(LOG_BYTES).unwrap_or(usize::MAX);
    while text.len() > limit {
        let cut =
            text.char_indices().find(|(at, _)| text.len() - at <= limit).map_or(text.len(), |(at, _)| at);
        text = text.split_off(cut);
    }
    text
}

/// `time stream F|P text` as its text, with the line end of a full line.
fn log_text(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let text = parts.next().unwrap_or("");
    Some(if tag.starts_with('P') { text.to_owned() } else { format!("{text}\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\nbad\n")
            .expect("written");
        assert_eq!(last_log_lines(&path), "one\ntwo\n");
    }
}

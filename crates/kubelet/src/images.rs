//! Images: pulled when policy says so, with back-off, credentials and events.
//!
//! Must not know containers beyond their image and pull policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Container, Pod, Secret};
use base::Clock;
use client::EventKind;
use parking_lot::Mutex;
use runtime::Cri;
use runtime::cri::messages as m;
use serde_json::Value;
use tokio::sync::watch;

use crate::container::security::ImageUser;
use crate::events::Events;
use crate::pods::pod::PodExt;

/// First pause after a failed pull.
const FIRST: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// Why a container cannot have its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    /// The reason a container waits, such as `ErrImagePull`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to look again; `None` = at the usual time.
    pub again_in: Option<Duration>,
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The runtime's id.
    pub id: String,
    /// Who it runs as.
    pub user: ImageUser,
    /// Its size, bytes.
    pub size: u64,
}

/// Images that something else is bringing to the runtime: who needs one waits for it rather than pull it.
#[derive(Clone, Debug, Default)]
pub struct Arriving(BTreeMap<String, watch::Receiver<bool>>);

impl Arriving {
    /// Expects an image. It is there once `true` is sent; a sender that is dropped gives up.
    pub fn expect(&mut self, image: &str) -> watch::Sender<bool> {
        let (sender, receiver) = watch::channel(false);
        self.0.insert(image.to_owned(), receiver);
        sender
    }

    /// Returns at once when the image is not expected.
    pub async fn wait(&self, image: &str) {
        if let Some(receiver) = self.0.get(image) {
            let _ = receiver.clone().wait_for(|there| *there).await;
        }
    }
}

struct Failure {
    since: Duration,
    delay: Duration,
    message: String,
}

/// The node's images; cheap to clone.
#[derive(Clone)]
pub struct Images {
    cri: Cri,
    clock: Clock,
    events: Events,
    arriving: Arriving,
    /// By (pod uid, image): pulls that failed.
    failures: Arc<Mutex<BTreeMap<(String, String), Failure>>>,
    /// One pull at a time of each image.
    pulls: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// An image name with a tag or digest; an error's text when it cannot be one.
pub fn normalize(name: &str) -> Result<String, String> {
    let fail = || Err(format!("couldn't parse image name {name:?}: invalid reference format"));
    let (rest, digest) = name.split_once('@').map_or((name, None), |(rest, digest)| (rest, Some(digest)));
    let (domain, path) = match rest.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, rest),
    };
    let (path, tag) = path.rsplit_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
        edge(part.chars().next()) && edge(part.chars().last()) && inner
    };
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let tag_fine = tag.is_none_or(|tag| {
        !tag.is_empty() && tag.len() <= 128 && tag.chars().all(word) && !tag.starts_with(['.', '-'])
    });
    let digest_fine = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    });
    let domain_fine =
        domain.is_none_or(|domain| domain.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c)));
    if path.is_empty() || !path.split('/').all(part) || !tag_fine || !digest_fine || !domain_fine {
        return fail();
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{name}:latest") } else { name.to_owned() })
}

/// The host that an image comes from.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Credentials in pull secrets that fit an image, in order.
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<m::AuthConfig> {
    let mut found = Vec::new();
    for secret in secrets {
        let data =
            |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let auths: Option<Value> = match (data(".dockerconfigjson"), data(".dockercfg")) {
            (Some(bytes), _) => {
                serde_json::from_slice::<Value>(bytes).ok().and_then(|v| v.get("auths").cloned())
            }
            (None, Some(bytes)) => serde_json::from_slice(bytes).ok(),
            (None, None) => None,
        };
        for (server, entry) in auths.as_ref().and_then(Value::as_object).into_iter().flatten() {
            if fits(server, image) {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
                found.push(m::AuthConfig {
                    username: text("username"),
                    password: text("password"),
                    auth: text("auth"),
                    server_address: String::new(),
                    identity_token: text("identitytoken"),
                    registry_token: text("registrytoken"),
                });
            }
        }
    }
    found
}

/// Whether an entry such as `https://index.docker.io/v1/` or `registry.example/team` is for an image.
fn fits(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let registry = registry_of(image);
    let docker = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same_host = host == registry
        || (docker(host) && docker(registry))
        || host
            .strip_prefix("*.")
            .is_some_and(|rest| registry.split_once('.').is_some_and(|(_, tail)| tail == rest));
    let rest = image.strip_prefix(registry).map_or(image, |rest| rest.trim_start_matches('/'));
    same_host && (path.is_empty() || rest.starts_with(path))
}

impl Images {
    /// Over the runtime.
    pub fn new(cri: Cri, clock: Clock, events: Events, arriving: Arriving) -> Images {
        Images { cri, clock, events, arriving, failures: Arc::default(), pulls: Arc::default() }
    }

    /// Waits for the image of sandboxes, if it is on its way.
    pub async fn sandbox_ready(&self) {
        self.arriving.wait(runtime::containerd::SANDBOX_IMAGE).await;
    }

    /// An image on the node, if it is there.
    pub async fn local(&self, image: &str) -> Result<Option<Local>, runtime::CriError> {
        let spec = m::ImageSpec { image: image.to_owned(), ..m::ImageSpec::default() };
        let answer =
            self.cri.image_status(m::ImageStatusRequest { image: Some(spec), verbose: false }).await?;
        Ok(answer.image.map(|image| Local {
            user: ImageUser { uid: image.uid.map(|uid| uid.value), name: image.username },
            id: image.id,
            size: image.size,
        }))
    }

    /// The image of a container, pulled if need be.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox: &m::PodSandboxConfig,
    ) -> Result<Local, ImageError> {
        let wanted = container.image.clone().unwrap_or_default();
        self.ensure_named(
            pod,
            &container.name,
            &wanted,
            container.image_pull_policy.as_deref(),
            secrets,
            sandbox,
        )
        .await
    }

    /// An image by name.
    pub async fn ensure_named(
        &self,
        pod: &Pod,
        container: &str,
        wanted: &str,
        policy: Option<&str>,
        secrets: &[Arc<Secret>],
        sandbox: &m::PodSandboxConfig,
    ) -> Result<Local, ImageError> {
        let error = |reason, message: String| ImageError { reason, message, again_in: None };
        let warn = |reason: &str, message: &str| {
            self.events.container(pod, container, EventKind::Warning, reason, message)
        };
        let image = match normalize(wanted) {
            Ok(image) => image,
            Err(detail) => {
                let message = format!("Failed to apply default image tag {wanted:?}: {detail}");
                warn("InspectFailed", &message);
                return Err(error("InvalidImageName", message));
            }
        };
        let policy = policy.unwrap_or(if image.ends_with(":latest") { "Always" } else { "IfNotPresent" });
        if policy != "Always" {
            self.arriving.wait(&image).await;
            match self.local(&image).await {
                Ok(Some(local)) => {
                    let message = format!(
                        "Container image {wanted:?} already present on machine and can be accessed by the pod"
                    );
                    self.events.container(pod, container, EventKind::Normal, "Pulled", &message);
                    return Ok(local);
                }
                Ok(None) if policy == "Never" => {
                    let message =
                        format!("Container image {wanted:?} is not present with pull policy of Never");
                    warn("ErrImageNeverPull", &message);
                    return Err(error("ErrImageNeverPull", message));
                }
                Ok(None) => {}
                Err(failure) => {
                    let message = format!("Failed to inspect image {wanted:?}: {failure}");
                    warn("InspectFailed", &message);
                    return Err(error("ImageInspectError", message));
                }
            }
        }
        let slot = (pod.uid().to_owned(), image.clone());
        self.check_backoff(pod, container, wanted, &slot)?;
        self.pull(pod, container, wanted, &image, &credentials(&image, secrets), sandbox, slot).await
    }

    fn check_backoff(
        &self,
        pod: &Pod,
        container: &str,
        wanted: &str,
        slot: &(String, String),
    ) -> Result<(), ImageError> {
        let now = self.clock.monotonic();
        let failures = self.failures.lock();
        let Some(failure) = failures.get(slot) else { return Ok(()) };
        let passed = now.saturating_sub(failure.since);
        if passed >= failure.delay {
            return Ok(());
        }
        let back_off = format!("Back-off pulling image {wanted:?}");
        self.events.container(pod, container, EventKind::Normal, "BackOff", &back_off);
        let message = format!("{back_off}: ErrImagePull: {}", failure.message);
        Err(ImageError {
            reason: "ImagePullBackOff",
            message,
            again_in: Some(failure.delay.saturating_sub(passed)),
        })
    }

    #[allow(clippy::too_many_arguments, reason = "one call, one pull")]
    async fn pull(
        &self,
        pod: &Pod,
        container: &str,
        wanted: &str,
        image: &str,
        credentials: &[m::AuthConfig],
        sandbox: &m::PodSandboxConfig,
        slot: (String, String),
    ) -> Result<Local, ImageError> {
        let began = self.clock.monotonic();
        self.events.container(
            pod,
            container,
            EventKind::Normal,
            "Pulling",
            &format!("Pulling image {wanted:?}"),
        );
        let gate = self.pulls.lock().entry(image.to_owned()).or_default().clone();
        let guard = gate.lock().await;
        let pulling = self.clock.monotonic();
        let result = self.pull_with(image, credentials, sandbox).await;
        drop(guard);
        self.pulls.lock().remove(image);
        match result {
            Ok(local) => {
                self.failures.lock().remove(&slot);
                let now = self.clock.monotonic();
                let text = |since: Duration| go_duration(now.saturating_sub(since));
                let message = format!(
                    "Successfully pulled image {wanted:?} in {} ({} including waiting). Image size: {} bytes.",
                    text(pulling),
                    text(began),
                    local.size
                );
                self.events.container(pod, container, EventKind::Normal, "Pulled", &message);
                Ok(local)
            }
            Err(failure) => {
                let message = format!("failed to pull and unpack image {wanted:?}: {failure}");
                let message = if failure.contains("failed to pull") { failure } else { message };
                let event = format!("Failed to pull image {wanted:?}: {message}");
                self.events.container(pod, container, EventKind::Warning, "Failed", &event);
                let mut failures = self.failures.lock();
                let delay = failures.get(&slot).map_or(FIRST, |before| (before.delay * 2).min(LONGEST));
                failures
                    .insert(slot, Failure { since: self.clock.monotonic(), delay, message: message.clone() });
                // Soon after, the container shows that it backs off.
                Err(ImageError { reason: "ErrImagePull", message, again_in: Some(Duration::from_secs(2)) })
            }
        }
    }

    async fn pull_with(
        &self,
        image: &str,
        credentials: &[m::AuthConfig],
        sandbox: &m::PodSandboxConfig,
    ) -> Result<Local, String> {
        let mut tries: Vec<Option<m::AuthConfig>> = credentials.iter().cloned().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = String::new();
        for auth in tries {
            let spec = m::ImageSpec { image: image.to_owned(), ..m::ImageSpec::default() };
            let request =
                m::PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox.clone()) };
            match self.cri.pull_image(request).await {
                Ok(answer) => {
                    let local = self.local(&answer.image_ref).await.map_err(|error| error.to_string())?;
                    return local.ok_or_else(|| format!("image {image:?} vanished after it was pulled"));
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// A duration as Go prints it, to the millisecond.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        1..1000 => format!("{millis}ms"),
        _ => {
            let (minutes, millis) = (millis / 60_000, millis % 60_000);
            let (seconds, rest) = (millis / 1000, millis % 1000);
            let fraction = format!("{rest:03}");
            let fraction = fraction.trim_end_matches('0');
            let seconds =
                if fraction.is_empty() { format!("{seconds}s") } else { format!("{seconds}.{fraction}s") };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        for (name, expect) in [
            ("busybox", Some("busybox:latest")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("registry.k8s.io/pause:3.10", Some("registry.k8s.io/pause:3.10")),
            ("FAILED_IMAGE", None),
            ("a b", None),
            ("", None),
            ("x:", None),
        ] {
            assert_eq!(normalize(name).ok().as_deref(), expect, "{name}");
        }
        assert!(normalize(&format!("a@sha256:{}", "0".repeat(64))).is_ok());
    }

    #[test]
    fn pull_secrets() {
        let config = json!({"auths": {"registry.example": {"username": "u", "password": "p"}, "https://index.docker.io/v1/": {"auth": "x"}}});
        let mut secret = Secret::default();
        secret.data = Some(
            [(".dockerconfigjson".to_owned(), api::k8s::ByteString(config.to_string().into_bytes()))].into(),
        );
        let secrets = [Arc::new(secret)];
        assert_eq!(credentials("registry.example/a:1", &secrets)[0].username, "u");
        assert_eq!(credentials("busybox:latest", &secrets)[0].auth, "x");
        assert!(credentials("other.example/a:1", &secrets).is_empty());
    }

    #[test]
    fn durations() {
        for (millis, expect) in [(5, "5ms"), (1500, "1.5s"), (10_000, "10s"), (300_000, "5m0s"), (40, "40ms")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), expect);
        }
    }
}

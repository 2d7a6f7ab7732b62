//! Probes: one task a probe of a running container; it reports changes of the result and nothing else.
//!
//! Must not act on a result: the plan does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Container, Pod, Probe as ProbeSpec};
use client::EventKind;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::plan::Probe;
use super::pod::PodExt;
use crate::http_get::{Get, dial_error, port_of};
use crate::shared::Shared;

/// Tries before a probe that could not be made counts as failed.
const TRIES: usize = 3;
/// The most of an output that is shown, bytes.
const SHOWN_BYTES: usize = 1024;

/// A probe's result.
#[derive(Clone, Debug)]
pub struct Result_ {
    /// The container's id.
    pub id: String,
    /// Which probe.
    pub probe: Probe,
    /// Success or failure.
    pub success: bool,
}

/// What one try said.
enum Outcome {
    Success,
    /// A success that deserves a word.
    Warning(String),
    Failure(String),
    Error(String),
}

/// What a probe is made of.
pub struct Task {
    /// Shared things.
    pub shared: Arc<Shared>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Its id.
    pub id: String,
    /// Which probe.
    pub probe: Probe,
    /// Its specification.
    pub spec: ProbeSpec,
    /// The pod's address.
    pub pod_ip: String,
    /// When the container started, on the monotonic clock.
    pub started: Duration,
    /// Its result so far, from before a restart of the agent.
    pub known: Option<bool>,
    /// Where results go.
    pub results: mpsc::UnboundedSender<Result_>,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default),
    )
}

fn count(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

/// Whether `times` equal tries settle a result.
pub fn settles(success: bool, times: u32, spec: &ProbeSpec) -> bool {
    let needed = if success { count(spec.success_threshold, 1) } else { count(spec.failure_threshold, 3) };
    times >= needed
}

impl Task {
    /// Probes until the receiver is gone, or a startup or liveness probe has failed for good.
    pub async fn run(self) {
        let clock = self.shared.clock.clone();
        let delay = u64::try_from(self.spec.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
        let due = self.started + Duration::from_secs(delay);
        clock.sleep(due.saturating_sub(clock.monotonic())).await;
        let period = seconds(self.spec.period_seconds, 10);
        let mut current = self.known;
        let (mut last, mut times) = (None, 0u32);
        loop {
            let success = self.try_often().await;
            times = if last == Some(success) { times + 1 } else { 1 };
            last = Some(success);
            if settles(success, times, &self.spec) && current != Some(success) {
                current = Some(success);
                let result = Result_ { id: self.id.clone(), probe: self.probe, success };
                if self.results.send(result).is_err() {
                    return;
                }
                // A startup probe ends with its first result; a failed liveness probe ends its container.
                if self.probe == Probe::Startup || (self.probe == Probe::Liveness && !success) {
                    return;
                }
            }
            clock.sleep(period).await;
        }
    }

    /// One probe with retries on errors; says what failed.
    async fn try_often(&self) -> bool {
        let mut outcome = self.once().await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
            outcome = self.once().await;
        }
        let kind = match self.probe {
            Probe::Startup => "Startup",
            Probe::Liveness => "Liveness",
            Probe::Readiness => "Readiness",
        };
        let message = match outcome {
            Outcome::Success => return true,
            Outcome::Warning(output) => {
                let message = format!("{kind} probe warning: {}", cut(&output));
                let name = &self.container.name;
                self.shared.events.container(&self.pod, name, EventKind::Warning, "ProbeWarning", &message);
                return true;
            }
            Outcome::Failure(output) => format!("{kind} probe failed: {}", cut(&output)),
            Outcome::Error(error) => {
                format!("{kind} probe errored and resulted in unknown state: {}", cut(&error))
            }
        };
        self.shared.events.container(
            &self.pod,
            &self.container.name,
            EventKind::Warning,
            "Unhealthy",
            &message,
        );
        false
    }

    async fn once(&self) -> Outcome {
        let limit = seconds(self.spec.timeout_seconds, 1);
        if self.spec.exec.is_some() {
            self.exec(limit).await
        } else if let Some(action) = &self.spec.http_get {
            let get = match Get::new(action, &self.container, &self.pod_ip) {
                Ok(get) => get,
                Err(error) => return Outcome::Error(error),
            };
            match get.send("kube-probe/1.36", limit, &self.shared.clock, &self.shared.tasks).await {
                Ok(answer) if (300..400).contains(&answer.code) => {
                    Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
                }
                Ok(answer) if (200..300).contains(&answer.code) => Outcome::Success,
                Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.code)),
                Err(error) => Outcome::Failure(error),
            }
        } else if let Some(action) = &self.spec.tcp_socket {
            let host =
                action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| self.pod_ip.clone());
            match port_of(&self.container, &action.port) {
                Ok(port) => self.tcp(&host, port, limit).await,
                Err(error) => Outcome::Error(error),
            }
        } else if let Some(action) = &self.spec.grpc {
            self.grpc(action.port, action.service.as_deref().unwrap_or(""), limit).await
        } else {
            Outcome::Error(format!(
                "missing probe handler for {}:{}",
                self.pod.display(),
                self.container.name
            ))
        }
    }

    async fn exec(&self, limit: Duration) -> Outcome {
        let command = self.spec.exec.as_ref().and_then(|exec| exec.command.clone()).unwrap_or_default();
        match self.shared.cri.exec_sync(&self.id, command, limit).await {
            Ok(output) if output.exit_code == 0 => Outcome::Success,
            Ok(output) => Outcome::Failure(
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            ),
            Err(error) if error.is_timeout() => Outcome::Failure(format!("command timed out: {error}")),
            Err(error) => Outcome::Error(error.to_string()),
        }
    }

    async fn tcp(&self, host: &str, port: u16, limit: Duration) -> Outcome {
        match self.shared.clock.timeout(limit, TcpStream::connect((host, port))).await {
            Some(Ok(_)) => Outcome::Success,
            Some(Err(error)) => Outcome::Failure(dial_error(host, port, &error)),
            None => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
        }
    }

    async fn grpc(&self, port: i32, service: &str, limit: Duration) -> Outcome {
        let address = self.pod_ip.parse::<IpAddr>().ok().zip(u16::try_from(port).ok());
        let Some((ip, port)) = address else {
            return Outcome::Error(format!("invalid address {}:{port}", self.pod_ip));
        };
        match runtime::health::check(SocketAddr::new(ip, port), service, limit).await {
            Ok(()) => Outcome::Success,
            Err(error) => Outcome::Failure(error),
        }
    }
}

fn cut(text: &str) -> &str {
    match text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= SHOWN_BYTES).last() {
        Some((at, c)) => &text[..at + c.len_utf8()],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let spec =
            ProbeSpec { failure_threshold: Some(2), success_threshold: Some(3), ..ProbeSpec::default() };
        assert!(!settles(false, 1, &spec) && settles(false, 2, &spec));
        assert!(!settles(true, 2, &spec) && settles(true, 3, &spec));
        assert!(settles(true, 1, &ProbeSpec::default()) && !settles(false, 2, &ProbeSpec::default()));
    }
}

//! Ends pods before the machine does: holds logind's shutdown up, ends pods by priority, then lets go.
//!
//! Must not know how a pod is ended.

mod logind;
pub mod plan;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::EventKind;

use crate::pods::pod::PodExt;
use crate::pods::registry;
use crate::pods::status::Verdict;
use crate::shared::Shared;
use logind::{BusError, Logind};

/// The pause before the bus is asked again.
const RECONNECT: Duration = Duration::from_secs(1);
/// The longest such pause: a machine without logind is not asked all the time.
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// What pods say that ended so.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// What is set about shutdowns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long pods may take.
    pub periods: plan::Periods,
    /// The system bus.
    pub bus: PathBuf,
    /// Where logind's settings are added to.
    pub logind: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            periods: plan::Periods::new(),
            bus: "/run/dbus/system_bus_socket".into(),
            logind: "/etc/systemd/logind.conf.d".into(),
        }
    }
}

/// Whether the machine is about to end, and who waits to know; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<(AtomicBool, tokio::sync::Notify)>);

impl Shutdown {
    /// True from the beginning of a shutdown until it is called off.
    pub fn begun(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    fn set(&self, begun: bool) {
        self.0.0.store(begun, Ordering::Release);
        self.0.1.notify_one();
    }

    /// Waits until that changes.
    pub async fn changed(&self) {
        self.0.1.notified().await;
    }
}

/// Follows logind until cancelled; without periods there is nothing to do.
pub async fn run(shared: Arc<Shared>) {
    if shared.config.shutdown.periods.is_empty() {
        return;
    }
    let mut pause = RECONNECT;
    loop {
        match follow(&shared, &mut pause).await {
            Ok(never) => match never {},
            Err(error) => tracing::warn!(%error, "a shutdown of this machine would not wait for pods"),
        }
        shared.clock.sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

async fn follow(shared: &Arc<Shared>, pause: &mut Duration) -> Result<std::convert::Infallible, BusError> {
    let settings = &shared.config.shutdown;
    let mut logind = Logind::connect(&settings.bus, &shared.clock).await?;
    logind.allow(plan::total(&settings.periods), &settings.logind).await?;
    let mut lock = Some(logind.lock().await?);
    logind.follow().await?;
    *pause = RECONNECT;
    tracing::info!("shutdowns of this machine wait for pods");
    loop {
        let begins = logind.next().await?;
        let text = if begins { "event" } else { "cancellation" };
        let text = format!("Shutdown manager detected shutdown {text}");
        shared.events.about(&shared.about_node(), EventKind::Normal, "NodeShutdown", &text);
        shared.shutdown.set(begins);
        if begins {
            end_pods(shared).await;
            // Now the machine may go on.
            drop(lock.take());
        } else {
            lock = Some(logind.lock().await?);
        }
    }
}

/// Ends all pods, those of lower priority first.
async fn end_pods(shared: &Shared) {
    let entries = shared.registry.all().into_iter();
    let active = entries.filter(|entry| !has_ended(entry)).map(|entry| entry.pod).collect();
    for group in plan::groups(&shared.config.shutdown.periods, active) {
        tracing::info!(
            pods = group.pods.len(),
            seconds = group.seconds,
            "ending pods before the machine ends"
        );
        for pod in &group.pods {
            let grace = Some(group.grace(pod));
            let verdict =
                Verdict { reason: "Terminated".into(), message: MESSAGE.into(), grace, disrupted: true };
            shared.registry.tell(pod.uid(), registry::Signal::Evict(verdict));
        }
        let until = shared.clock.monotonic() + Duration::from_secs(group.seconds.unsigned_abs());
        let ended = || {
            let mut pods = group.pods.iter();
            pods.all(|pod| shared.registry.get(pod.uid()).is_none_or(|entry| has_ended(&entry)))
        };
        while !ended() && shared.clock.monotonic() < until {
            shared.clock.sleep(Duration::from_millis(100)).await;
        }
    }
}

/// True when nothing of the pod runs and its status says so.
fn has_ended(entry: &registry::Entry) -> bool {
    let phase = entry.status.as_ref().and_then(|status| status.phase.as_deref());
    entry.sandbox.is_none() && (entry.pod.finished() || matches!(phase, Some("Failed" | "Succeeded")))
}

//! Background tasks: spawned here only, cancelled together, waited for at the end.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Tells work to stop. Children stop with their parent.
#[derive(Clone, Debug, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// A token that only its owner cancels.
    pub fn new() -> Self {
        Cancel::default()
    }

    /// A token that stops with this one, or earlier.
    pub fn child(&self) -> Cancel {
        Cancel(self.0.child_token())
    }

    /// Stops everything that waits on this token.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the cancellation.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }

    /// Runs `work` until it ends or the token is cancelled (`None`).
    pub async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => None,
            output = work => Some(output),
        }
    }
}

/// A group of tasks with one cancel token; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: Cancel,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Tasks::default()
    }

    /// The token that stops this group.
    pub fn cancel_token(&self) -> &Cancel {
        &self.cancel
    }

    /// A group that stops with this one and can be stopped alone.
    pub fn child(&self) -> Tasks {
        Tasks { tracker: self.tracker.clone(), cancel: self.cancel.child() }
    }

    /// Starts `work`; it is dropped at its next await once the group is cancelled.
    pub fn spawn<F>(&self, name: &'static str, work: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        self.spawn_detached(name, async move {
            cancel.run(work).await;
        })
    }

    /// Starts `work`, which itself watches the cancel token (to finish what it holds).
    #[allow(clippy::disallowed_methods, reason = "the one home of spawning")]
    pub fn spawn_detached<F>(&self, name: &'static str, work: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = PanicNote { name };
        tokio::spawn(self.tracker.track_future(async move {
            work.await;
            std::mem::forget(guard);
        }))
    }

    /// Cancels the group and waits for its tasks, at most `limit`. True when all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Runs work that blocks (files, hashing) off the async threads. A panic of it is ours.
#[allow(clippy::disallowed_methods, reason = "the work ends by itself; it is awaited at once")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs work that computes for long between its awaits, so that it holds up no other task: where the runtime has
/// several threads, another one takes over what this one would have done meanwhile.
pub async fn apart<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Handle::try_current().ok();
    match runtime.filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread) {
        Some(handle) => tokio::task::block_in_place(|| handle.block_on(work)),
        None => work.await,
    }
}

/// Logs a task that ended by a panic.
struct PanicNote {
    name: &'static str,
}

impl Drop for PanicNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_stops_and_waits() {
        let tasks = Tasks::new();
        tasks.spawn("forever", std::future::pending());
        let child = tasks.child();
        child.spawn("child", std::future::pending());
        assert!(tasks.drain(Duration::from_secs(5)).await);
        assert!(child.cancel_token().is_cancelled());
    }

    /// As many computations as there are threads, each of which ends only when a task beside them has run.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_apart_holds_up_nobody() {
        let tasks = Tasks::new();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let long = |stop: std::sync::Arc<std::sync::atomic::AtomicBool>| {
            tasks.spawn(
                "long",
                apart(async move {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                }),
            )
        };
        let (one, two) = (long(stop.clone()), long(stop.clone()));
        let other = tasks.spawn("other", async move {
            tokio::task::yield_now().await;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for task in [one, two, other] {
            task.await.expect("ends");
        }
    }

    #[tokio::test]
    async fn on_one_thread_work_apart_is_work() {
        assert_eq!(apart(async { 1 }).await, 1);
    }
}

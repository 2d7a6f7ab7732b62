//! Waits for something to happen in a directory (inotify).
//!
//! Must not know what the files are. Where the kernel has no watch to give, waiting is by time alone.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use base::Clock;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// How often to look without being told: a backstop with a watch, the way itself without one.
const WITH_WATCH: Duration = Duration::from_secs(1);
const WITHOUT: Duration = Duration::from_millis(250);

/// A watched directory.
pub struct Watch(Option<AsyncFd<OwnedFd>>);

impl Watch {
    /// Watches `directory`.
    #[allow(
        deprecated,
        reason = "an owned descriptor stays open as long as it is watched, which is what `new` asks"
    )]
    pub fn new(directory: &Path) -> Watch {
        let made = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
            inotify::add_watch(&fd, directory, events)?;
            AsyncFd::new(fd)
        };
        Watch(made().inspect_err(|error| tracing::debug!(%error, "no inotify, looking by time")).ok())
    }

    /// Returns after an event, or after a while.
    pub async fn wait(&self, clock: &Clock) {
        let Some(fd) = &self.0 else { return clock.sleep(WITHOUT).await };
        let Some(Ok(mut ready)) = clock.timeout(WITH_WATCH, fd.readable()).await else { return };
        let mut events = [0; 4096];
        while matches!(rustix::io::read(fd.get_ref(), &mut events), Ok(size) if size > 0) {}
        ready.clear_ready();
    }
}

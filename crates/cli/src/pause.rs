//! `navarch pause`: the process that holds a pod's namespaces. It waits, reaps orphans of a shared process
//! namespace, and ends on SIGTERM or SIGINT.

use std::process::ExitCode;

use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Waits until told to end.
pub fn run() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    runtime.block_on(async {
        let signals =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::child()));
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut child)) = signals else { return ExitCode::FAILURE };
        loop {
            tokio::select! {
                _ = terminate.recv() => return ExitCode::SUCCESS,
                _ = interrupt.recv() => return ExitCode::SUCCESS,
                _ = child.recv() => while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {},
            }
        }
    })
}

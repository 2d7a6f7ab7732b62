//! `cargo xtask soak crash`: kills processes of the real binary for a while and says whether anything was lost.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Kills API servers (or etcd members) under load, and holds everything seen against each other.
    Crash(#[command(flatten)] soak::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Crash(options) = Command::parse();
    let interrupted = async {
        // Without it the servers would stay behind.
        let _ = tokio::signal::ctrl_c().await;
        Err("interrupted".to_owned())
    };
    let done = tokio::select! {
        done = soak::run(options) => done,
        stopped = interrupted => stopped,
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

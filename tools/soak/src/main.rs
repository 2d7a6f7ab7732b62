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
    match soak::run(options).await {
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

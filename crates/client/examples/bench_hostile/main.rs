//! Sends hostile input of all sorts to an API server, and watches its memory and how a well-behaved client fares.
//!
//! ```text
//! cargo xtask bench hostile PATH-TO-NAVARCH [--gigabytes N] [--port N] [--only TEXT] [--seconds N]
//! ```
//!
//! Starts `navarch apiserver` on loopback with data in a temporary directory, and stops it at the end. Fails when the
//! server's memory passes the promise or the well-behaved client was not served. No attack takes longer than
//! `--seconds`. Must not know the server's insides.

mod attack;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use attack::Plan;

fn options() -> Option<(String, Plan)> {
    let mut args = std::env::args().skip(1);
    let binary = args.next()?;
    let mut plan = Plan {
        bytes: 10_000_000_000,
        port: 19_110,
        only: Vec::new(),
        senders: 24,
        limit: Duration::from_secs(120),
        lasts: Duration::from_secs(15),
        fewer: 1,
    };
    while let Some(flag) = args.next() {
        let value = args.next()?;
        match flag.as_str() {
            "--gigabytes" => plan.bytes = (value.parse::<f64>().ok()? * 1e9) as u64,
            "--port" => plan.port = value.parse().ok()?,
            "--only" => plan.only.push(value),
            "--seconds" => plan.limit = Duration::from_secs(value.parse().ok()?),
            _ => return None,
        }
    }
    Some((binary, plan))
}

fn main() -> ExitCode {
    let Some((binary, plan)) = options() else {
        println!(
            "usage: bench_hostile PATH-TO-NAVARCH [--gigabytes N] [--port N] [--only TEXT] [--seconds N]"
        );
        return ExitCode::FAILURE;
    };
    match attack::run(Path::new(&binary), &plan) {
        Ok(outcome) if outcome.fine => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

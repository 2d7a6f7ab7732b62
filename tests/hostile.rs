//! A small part of what `cargo xtask bench hostile` sends, against the real binary: its memory stays within the promise
//! and others are answered. Loopback only. Must not know the server's insides.

#[path = "../crates/client/examples/bench_hostile/attack/mod.rs"]
mod attack;

use std::path::Path;
use std::time::Duration;

use attack::Plan;

/// Those that an unoptimised server is done with in seconds.
const ATTACKS: [&str; 8] = [
    "wide objects",
    "beyond the limit",
    "aliases",
    "slow bodies",
    "watches that nobody reads",
    "lists that nobody reads",
    "HTTP/2 streams",
    "without end",
];

#[test]
fn hostile_input_takes_no_more_memory_and_holds_up_nobody() {
    let port = soak::free_ports(1).expect("a port")[0];
    let plan = Plan {
        bytes: 50_000_000,
        port,
        only: ATTACKS.map(str::to_owned).to_vec(),
        senders: 4,
        limit: Duration::from_secs(2),
        lasts: Duration::from_secs(2),
        fewer: 20,
    };
    let outcome = attack::run(Path::new(env!("CARGO_BIN_EXE_navarch")), &plan).expect("the server starts");
    assert!(outcome.fine, "see what was printed");
    assert!(outcome.sent > plan.bytes / 5 && outcome.served > 10 && outcome.peak_mb > 0);
}

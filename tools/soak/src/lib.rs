//! A long run against the real binary: 64 writers, several watchers, and processes that are killed at any moment, on
//! a disk that may be slow and may lose its power, or on an etcd. Then everything that was acknowledged, read and
//! told is held against everything else.

mod call;
mod disk;
mod history;
mod plane;
mod run;
mod watch;
mod work;
mod world;

pub use call::{Answer, Caller};
pub use disk::{Disk, Pace};
pub use plane::{Keys, Process, etcd_members, free_ports, server_words};
pub use run::{Options, Report, run};

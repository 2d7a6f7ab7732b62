//! The scheduler: finds a node for each pod that has none.
//!
//! `decide` is pure: `(pod, &Snapshot, &Rng) -> Decision`; plugins are rows of a table. `run` feeds it from
//! informers and binds. Must not know the store or the API server: it is an API client like any other.

pub mod bind;
pub mod cache;
pub mod config;
pub mod counts;
pub mod decide;
pub mod extender;
pub mod hints;
pub mod memo;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod profile;
pub mod queue;
pub mod run;
pub mod snapshot;
pub mod storage;
mod victim;

pub use config::{Config, Setup};
pub use decide::{Decision, decide};
pub use pod::PodInfo;
pub use profile::Profile;
pub use run::run;
pub use snapshot::{NodeInfo, Snapshot};

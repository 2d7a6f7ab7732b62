//! What every layer stands on: time, randomness, tasks, back-off, telemetry, keys, HTTP bodies.
//!
//! Must not know Kubernetes: no kind, no API path, no object appears here.

pub mod backoff;
pub mod clock;
pub mod http;
pub mod metrics;
pub mod mutation;
pub mod pki;
pub mod process;
pub mod rng;
pub mod tasks;
pub mod telemetry;
pub mod trust;

pub use backoff::Backoff;
pub use clock::Clock;
pub use mutation::mutated;
pub use rng::Rng;
pub use tasks::{Cancel, Tasks};

/// An error of any kind, for places that only pass it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

//! The life of pods on this node: what is wanted, what the runtime holds, what to do, what to report.

pub mod admit;
pub mod backoff;
pub mod hooks;
pub mod look;
pub mod manager;
pub mod observed;
pub mod ops;
pub mod plan;
pub mod pod;
pub mod probes;
pub mod registry;
pub mod report;
pub mod resize;
pub mod status;
pub mod worker;

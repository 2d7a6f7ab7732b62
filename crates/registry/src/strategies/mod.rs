//! The strategies of the built-in kinds, one const row each.

mod core;
mod other;
mod pods;
mod workload;

pub use core::*;
pub use other::*;
pub use pods::{POD, qos_class};
pub use workload::*;

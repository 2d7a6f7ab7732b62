//! The deterministic simulation: API server, controllers, scheduler and machines on one thread in virtual time. A seed
//! decides what is asked of them and what goes wrong; laws are checked after every commit, and the end when all is calm.
//!
//! Nothing of the product may know this crate.

pub mod calm;
pub mod door;
pub mod laws;
pub mod machine;
pub mod run;
pub mod script;
pub mod tap;
pub mod truth;
pub mod world;

pub use run::{Options, Outcome, catch_panics, run};

//! What the node-bound parts of this crate are given.

use base::{Clock, Tasks};
use client::SharedInformers;

/// Handles shared by the tasks of one node.
#[derive(Clone)]
pub struct NodeDeps {
    /// Informers, shared with whoever else needs the same kinds.
    pub informers: SharedInformers,
    /// Time.
    pub clock: Clock,
    /// Where tasks belong.
    pub tasks: Tasks,
    /// This node's name.
    pub node_name: String,
}

//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.
//!
//! Pure functions over values. They must not know HTTP or what the patched object is for; the caller decodes
//! the result against its schema ([`crate::codec::json::conform`]).

mod diff;
mod json_patch;
mod merge;
mod strategic;

pub use diff::{Conflict, create_three_way, create_three_way_merge, create_two_way};
pub use json_patch::{
    MAX_COPY_BYTES, MAX_OPERATIONS, Operation, apply_operations, decode_operations, json_patch,
};
pub use merge::{create_merge, merge_patch};
pub use strategic::strategic_merge;

use thiserror::Error;

/// Why a patch does not apply. The text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (422).
    #[error("{0}")]
    Inapplicable(String),
    /// The patch has too many operations or copies too much (413).
    #[error("{0}")]
    TooLarge(String),
}

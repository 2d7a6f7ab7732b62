//! Bytes to values and back: JSON, YAML and protobuf, with upstream's strictness and wording.
//!
//! A decoded value is canonical: it reads as upstream would print the same object (nulls and zero optional
//! fields gone, fields that are always printed present, quantities and times in their one spelling).
//! It must not know HTTP or any kind's behaviour.

pub mod canonical;
pub mod json;
pub mod proto;
pub mod scalar;
pub mod yaml;

use thiserror::Error;

/// Why bytes could not become a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The text is not JSON.
    #[error("{message}")]
    Syntax {
        /// What is wrong, in upstream's words.
        message: String,
    },
    /// A value has the wrong type for its field.
    #[error("{message}")]
    Type {
        /// What is wrong, in upstream's words.
        message: String,
    },
    /// The bytes are not the protobuf form of the type.
    #[error("proto: {message}")]
    Proto {
        /// What is wrong.
        message: String,
    },
    /// The text is not YAML.
    #[error("error converting YAML to JSON: {message}")]
    Yaml {
        /// What is wrong.
        message: String,
    },
}

/// Nesting deeper than this is refused. serde_json reads back at most 128 levels, and upstream's own
/// validation stops long before; its decoder would go to 10,000.
pub const MAX_DEPTH: usize = 126;

/// At most this many strictness errors are collected, as upstream does.
pub const MAX_STRICT_ERRORS: usize = 100;

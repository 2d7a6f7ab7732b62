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

/// At most this many objects in one list of an object's field (not in a list of objects): typed code makes up to a
/// kilobyte of each, be it only `{}`, and a body holds a million of those. No valid object has nearly as many.
pub const MAX_LIST_OBJECTS: usize = 50_000;

/// Whether one more would be more objects than a field's list may have.
pub(crate) fn is_full(field: &crate::schema::FieldFacts, length: usize) -> bool {
    length >= MAX_LIST_OBJECTS && field.json != "items" && field.message().is_some()
}

/// What is said of such a list.
pub(crate) fn too_many(field: &crate::schema::FieldFacts) -> String {
    format!("{:?} has more than {MAX_LIST_OBJECTS} items", field.json)
}

/// At most this many strictness errors are collected, as upstream does.
pub const MAX_STRICT_ERRORS: usize = 100;

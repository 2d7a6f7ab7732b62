//! What stands in the way of an apply, in upstream's words.

use std::collections::BTreeMap;
use std::fmt;

use super::fields::show;
use super::managed::{Entry, Id};

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who, as shown: `"kubectl" with subresource "status" using apps/v1`.
    pub manager: String,
    /// Which field: `.spec.replicas`.
    pub field: String,
    pub(super) path: Vec<String>,
}

impl Conflict {
    pub(super) fn new(id: &Id, entry: &Entry, path: Vec<String>) -> Conflict {
        let mut manager = crate::codec::scalar::go_quote(&id.manager);
        if !id.subresource.is_empty() {
            manager
                .push_str(&format!(" with subresource {}", crate::codec::scalar::go_quote(&id.subresource)));
        }
        if !id.applied {
            manager.push_str(&format!(" using {}", entry.api_version));
        }
        Conflict { manager, field: show(&path), path }
    }
}

/// Why an apply failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// Others own fields that the configuration sets (409; the causes are `FieldManagerConflict`, each with
    /// message `conflict with {manager}` and its field).
    Conflicts(Vec<Conflict>),
    /// The request is malformed (400).
    BadRequest(String),
    /// The configuration does not fit the schema (500, as upstream).
    Internal(String),
}

impl std::error::Error for ApplyError {}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conflicts = match self {
            ApplyError::BadRequest(message) | ApplyError::Internal(message) => return f.write_str(message),
            ApplyError::Conflicts(conflicts) => conflicts,
        };
        if let [only] = conflicts.as_slice() {
            return write!(f, "Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.field);
        }
        let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for conflict in conflicts {
            by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
        }
        let mut lines = Vec::new();
        for (manager, fields) in by_manager {
            lines.push(format!("conflicts with {manager}:"));
            lines.extend(fields.into_iter().map(|field| format!("- {field}")));
        }
        write!(f, "Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    }
}

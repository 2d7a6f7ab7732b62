//! Where an object lives: resource, namespace, name. Knows no kind; a resource is only a name.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The place of one object. Ordered by resource, then namespace, then name (byte order).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Storage name of the resource, `group/plural`, or the plural alone for the core group.
    pub resource: Arc<str>,
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Order within one resource.
    pub(crate) fn place(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    pub(crate) fn cmp_place(&self, other: &Self) -> Ordering {
        cmp_shared(&self.namespace, &other.namespace)
            .then_with(|| self.name.as_bytes().cmp(other.name.as_bytes()))
    }
}

/// Compares two interned strings: the same allocation needs no look at its bytes.
pub(crate) fn cmp_shared(left: &Arc<str>, right: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(left, right) { Ordering::Equal } else { left.as_bytes().cmp(right.as_bytes()) }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.resource, self.name)
        } else {
            write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
        }
    }
}

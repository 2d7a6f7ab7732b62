//! The built-in plugins, in upstream's order.

use super::Plugin;

/// Every plugin that is on by default, in order.
pub const TABLE: &[Plugin] = &[Plugin { name: "NamespaceLifecycle", mutate: None, validate: None }];

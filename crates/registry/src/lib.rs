//! The Resource table: every kind that is served, and how kinds differ. Names, verbs and
//! subresources (`rows`), defaults, preparation, validation, printer columns, conversions.
//! Everything here is a table or a pure function over JSON trees; it must not know HTTP, the store,
//! the clock or randomness.

pub mod canonical;
pub mod catalog;
pub mod columns;
pub mod convert;
pub mod crd;
mod defaults;
mod disabled;
pub mod lifecycle;
pub mod pod;
pub mod resource;
pub mod rows;
pub mod scale;
mod strategies;
pub mod strategy;
pub mod tree;
pub mod validation;
mod warnings;

pub use catalog::{Catalog, Group};
pub use columns::Columns;
pub use resource::{Conversion, Resource, Role, ScalePaths, SelectableField, Subresource, Verb, Verbs};
pub use strategy::{Context, Grace, Part, Strategy};

//! What every built-in type looks like: JSON names, protobuf numbers, list kinds, patch markers.
//!
//! The facts come from `facts.txt`, written by `cargo xtask facts`. It must not know any kind's behaviour;
//! custom resources bring their own [`structural::Node`] and meet built-ins behind the [`Schema`] view.

mod facts;
pub mod sample;
pub mod structural;
mod view;

pub use facts::{Base, Facts, FieldFacts, Flat, ListKind, PatchMarks, Scalar, Shape, TypeFacts, facts};
pub use view::{Schema, Sort};

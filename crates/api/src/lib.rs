//! The language of the Kubernetes API: typed objects, names, quantities, selectors, errors.
//!
//! Must not know I/O, storage or HTTP servers: everything here is a value or a pure function.

pub mod error;
pub mod fields;
pub mod labels;
pub mod meta;
pub mod names;
pub mod nodes;
pub mod quantity;
pub mod time;
pub mod user;
pub mod validation;
pub mod volumes;
pub mod wire;

pub use error::{ApiError, Reason};
pub use k8s_openapi as k8s;
pub use meta::{Gvk, Gvr};
pub use quantity::Quantity;
pub use user::UserInfo;

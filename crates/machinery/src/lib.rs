//! The machinery of API objects: schema facts, codecs, patches, server-side apply, OpenAPI and JSONPath.
//!
//! Everything here is a pure function over [`serde_json::Value`] trees, bytes and schemas. It must not know
//! HTTP, storage, the clock or any kind's behaviour: a kind is only its [`schema::TypeFacts`].

pub mod apply;
pub mod cel;
pub mod codec;
pub mod jsonpath;
pub mod openapi;
pub mod patch;
pub mod policy;
pub mod schema;

//! The API server: one request path, one handler per verb, every kind from the Resource table.
//!
//! Only this crate opens the store. It must not know controllers, the scheduler or agents; it meets them as
//! clients, and agents also at the far end of proxied connections.

pub mod admission;
mod aggregate;
pub mod alloc;
pub mod audit;
pub mod authn;
pub mod authz;
mod backup;
mod bodies;
pub mod boot;
mod compress;
pub mod config;
mod convert;
mod crd;
mod discovery;
pub mod encryption;
mod fairness;
mod follow;
mod gather;
mod health;
mod listen;
mod measure;
pub mod negotiate;
pub mod object;
mod openapi;
mod remote;
pub mod request;
mod respond;
mod server;
mod sub;
mod verbs;
mod webhook;
mod write;

pub use config::Config;
pub use object::Rows;
pub use server::{BODY_LIMIT, Exchange, Server};

//! The service proxy: Services and endpoints in, one nftables table out.
//!
//! `service` parses objects, `choice` and `plan` are pure, `engine` keeps the plans up to date and applies them.

pub mod choice;
pub mod conntrack;
pub mod engine;
pub mod health;
pub mod options;
pub mod plan;
pub mod service;

//! Validation: what is wrong with an object, in upstream's words and with upstream's field paths
//! (pkg/apis/*/validation). Objects come canonical and defaulted. One file per group of kinds.
//! It must not know the store; anything that needs other objects is admission.

pub mod admission;
pub mod apps;
pub mod batch;
pub mod container;
pub mod core;
pub mod definition;
pub mod devices;
pub mod job_status;
pub mod meta;
pub mod networking;
pub mod pod;
pub mod pod_update;
pub mod policy;
pub mod resources;
pub mod reviews;
pub mod scheduling;
pub mod schema;
pub mod security;
pub mod service;
pub(crate) mod shown;
pub mod small;
pub mod storage;
pub mod volume;

pub use api::validation::{ErrorKind, ErrorList, FieldError, Path};

use serde_json::Value;

use crate::tree::Tree;

pub(crate) const IMMUTABLE: &str = "field is immutable";
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const NOT_POSITIVE: &str = "must be greater than zero";

/// Short ways to add findings.
pub(crate) trait Report {
    /// The field must be set.
    fn required(&mut self, path: &Path, detail: &str);
    /// The value is wrong.
    fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>);
    /// The field must not be set, or not so.
    fn forbidden(&mut self, path: &Path, detail: impl Into<String>);
    /// The value occurs twice.
    fn duplicate(&mut self, path: &Path, value: impl Into<Value>);
    /// The value names nothing that exists.
    fn not_found(&mut self, path: &Path, value: impl Into<Value>);
    /// One invalid value per message.
    fn messages(&mut self, path: &Path, value: &str, messages: Vec<String>);
    /// A text that is none of the allowed ones is not supported.
    fn one_of(&mut self, path: &Path, text: &str, allowed: &[&str]);
    /// As `one_of`, and an empty text is required instead.
    fn required_one_of(&mut self, path: &Path, text: &str, allowed: &[&str]);
    /// A number below 0.
    fn non_negative(&mut self, path: &Path, number: i64);
    /// A number below 1.
    fn positive(&mut self, path: &Path, number: i64);
    /// A value that differs from what it was; empty and absent are one.
    fn immutable(&mut self, path: &Path, new: &Value, old: &Value);
    /// An empty text under `field` of the object.
    fn required_text(&mut self, path: &Path, object: &Value, field: &str);
    /// An IP address, strictly read.
    fn ip(&mut self, path: &Path, text: &str);
}

impl Report for ErrorList {
    fn required(&mut self, path: &Path, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::invalid(path, value, detail));
    }

    fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(FieldError::forbidden(path, detail));
    }

    fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, value));
    }

    fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.push(FieldError::not_found(path, value));
    }

    fn messages(&mut self, path: &Path, value: &str, messages: Vec<String>) {
        self.extend(messages.into_iter().map(|m| FieldError::invalid(path, value, m)));
    }

    fn one_of(&mut self, path: &Path, text: &str, allowed: &[&str]) {
        if !allowed.contains(&text) {
            self.push(FieldError::not_supported(path, text, allowed));
        }
    }

    fn required_one_of(&mut self, path: &Path, text: &str, allowed: &[&str]) {
        if text.is_empty() {
            self.required(path, "");
        } else {
            self.one_of(path, text, allowed);
        }
    }

    fn non_negative(&mut self, path: &Path, number: i64) {
        if number < 0 {
            self.invalid(path, number, NEGATIVE);
        }
    }

    fn positive(&mut self, path: &Path, number: i64) {
        if number <= 0 {
            self.invalid(path, number, NOT_POSITIVE);
        }
    }

    fn immutable(&mut self, path: &Path, new: &Value, old: &Value) {
        if crate::strategy::differs(Some(new), Some(old)) {
            self.invalid(path, new.clone(), IMMUTABLE);
        }
    }

    fn required_text(&mut self, path: &Path, object: &Value, field: &str) {
        if object.text(field).is_empty() {
            self.required(&path.child(field), "");
        }
    }

    fn ip(&mut self, path: &Path, text: &str) {
        self.messages(path, text, ip_messages(text));
    }
}

/// What is wrong with an IP address of a field that upstream has always had: leading zeros and
/// IPv4-mapped addresses are rejected, non-canonical forms pass.
pub(crate) fn ip_messages(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_string()]
        }
        Ok(_) => Vec::new(),
        Err(_) => {
            let octets: Vec<&str> = text.split('.').collect();
            let sloppy = octets.len() == 4
                && octets.iter().all(|o| !o.is_empty() && o.len() <= 3 && o.parse::<u8>().is_ok());
            if sloppy {
                return vec!["must not have leading 0s".to_string()];
            }
            vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string()]
        }
    }
}

/// Turns the messages of a name check into errors about the value.
pub(crate) fn each(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.messages(path, value, messages);
}

/// See [`Report::immutable`].
pub(crate) fn immutable(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    errors.immutable(path, new, old);
}

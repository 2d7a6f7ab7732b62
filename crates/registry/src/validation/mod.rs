//! Validation: what is wrong with an object, in upstream's words and with upstream's field paths
//! (pkg/apis/*/validation). Objects come canonical and defaulted. One file per group of kinds.
//! It must not know the store; anything that needs other objects is admission.

pub mod meta;

pub use api::validation::{ErrorList, FieldError, Path};

use serde_json::Value;

use crate::tree::Tree;

pub(crate) const IMMUTABLE: &str = "field is immutable";
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";

/// Turns the messages of a name check into errors about the value.
pub(crate) fn each(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(path, value, m)));
}

/// A number that must not be negative.
pub(crate) fn non_negative(errors: &mut ErrorList, object: &Value, path: &Path, field: &str) {
    let n = object.int(field);
    if n < 0 {
        errors.push(FieldError::invalid(&path.child(field), n, NEGATIVE));
    }
}

/// A value that must be what it was; empty and absent are one.
pub(crate) fn immutable(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    if crate::strategy::differs(Some(new), Some(old)) {
        errors.push(FieldError::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// A text that must be one of the given ones; required when `required`.
pub(crate) fn one_of(errors: &mut ErrorList, path: &Path, text: &str, allowed: &[&str]) {
    if !allowed.contains(&text) {
        errors.push(FieldError::not_supported(path, text, allowed));
    }
}

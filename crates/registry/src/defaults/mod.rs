//! What the server fills in when the client left it out. Values and conditions are upstream's
//! (pkg/apis/*/v1/defaults.go and the `+default` markers). Objects come in canonical form, so an
//! absent field is simply not there.

pub mod apps;
pub mod core;
pub mod other;
pub mod pod;

use serde_json::Value;

use crate::tree::Tree;

/// Sets plain values where nothing is.
fn fill(object: &mut Value, rows: &[(&str, Value)]) {
    for (path, value) in rows {
        object.set_default(path, value.clone());
    }
}

/// Sets numbers where 0 stands: fields that Go's encoder always writes.
fn fill_zero(object: &mut Value, rows: &[(&str, i64)]) {
    for (path, value) in rows {
        if object.int(path) == 0 {
            object.set(path, *value);
        }
    }
}

//! OpenAPI documents of a catalog. It must not know HTTP.

use registry::Catalog;
use serde_json::{Value, json};

/// The v2 document of everything served.
pub fn v2(_catalog: &Catalog) -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": {}, "definitions": {}})
}

/// The v3 documents: path below `/openapi/v3/` and document.
pub fn v3(_catalog: &Catalog) -> Vec<(String, Value)> {
    Vec::new()
}

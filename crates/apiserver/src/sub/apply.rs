//! Server-side apply and the ownership of fields.

use api::ApiError;
use http::StatusCode;
use registry::Part;
use serde_json::Value;

use crate::verbs::Call;
use crate::verbs::Written;
use crate::write::WriteOptions;

/// Notes which fields a write by other means has taken.
pub fn track(_call: &Call<'_>, _options: &WriteOptions, _new: &mut Value, _old: Option<&Value>) {}

/// Applies a configuration.
pub async fn apply(
    _call: &Call<'_>,
    _part: Part,
    _body: &[u8],
    _options: &WriteOptions,
) -> Result<(Written, StatusCode), ApiError> {
    Err(ApiError::no_such_path())
}

//! API errors: what a Kubernetes `Status` carries, with upstream's codes, reasons and messages
//! (apimachinery `pkg/api/errors`).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::meta::group_resource;
use crate::validation::ErrorList;

/// `Status.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "upstream's own names")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

/// Reason, its text and its HTTP code.
const REASONS: &[(Reason, &str, u16)] = &[
    (Reason::Unknown, "", 500),
    (Reason::Unauthorized, "Unauthorized", 401),
    (Reason::Forbidden, "Forbidden", 403),
    (Reason::NotFound, "NotFound", 404),
    (Reason::AlreadyExists, "AlreadyExists", 409),
    (Reason::Conflict, "Conflict", 409),
    (Reason::Gone, "Gone", 410),
    (Reason::Invalid, "Invalid", 422),
    (Reason::ServerTimeout, "ServerTimeout", 500),
    (Reason::StoreReadError, "StorageReadError", 500),
    (Reason::Timeout, "Timeout", 504),
    (Reason::TooManyRequests, "TooManyRequests", 429),
    (Reason::BadRequest, "BadRequest", 400),
    (Reason::MethodNotAllowed, "MethodNotAllowed", 405),
    (Reason::NotAcceptable, "NotAcceptable", 406),
    (Reason::RequestEntityTooLarge, "RequestEntityTooLarge", 413),
    (Reason::UnsupportedMediaType, "UnsupportedMediaType", 415),
    (Reason::InternalError, "InternalError", 500),
    (Reason::Expired, "Expired", 410),
    (Reason::ServiceUnavailable, "ServiceUnavailable", 503),
];

impl Reason {
    /// The text of `Status.reason`.
    pub fn as_str(self) -> &'static str {
        REASONS.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The HTTP code that goes with it.
    pub fn code(self) -> u16 {
        REASONS.iter().find(|row| row.0 == self).map_or(500, |row| row.2)
    }

    /// From the text of `Status.reason`.
    pub fn parse(text: &str) -> Reason {
        REASONS.iter().find(|row| row.1 == text).map_or(Reason::Unknown, |row| row.0)
    }
}

/// One entry of `Status.details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A machine-readable reason such as `FieldValueRequired`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The path of the field, such as `spec.containers[0].image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `Status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The kind or resource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What went wrong, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before the next try; 0 = not said.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An error that is answered as a Kubernetes `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP code.
    pub code: u16,
    /// `Status.reason`.
    pub reason: Reason,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`.
    pub details: Option<Box<Details>>,
    /// `Status.metadata.continue`: set on an expired continue token only.
    pub continue_token: Option<String>,
}

impl ApiError {
    /// With the reason's own code and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        ApiError { code: reason.code(), reason, message: message.into(), details: None, continue_token: None }
    }

    /// With details of the object concerned.
    pub fn with_object(mut self, group: &str, resource: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = resource.to_owned();
        details.name = name.to_owned();
        self
    }

    /// With causes.
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    /// With a hint when to try again.
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Takes the hint when to try again away.
    pub fn without_retry(mut self) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = 0;
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ApiError::new(Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        ApiError::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 403 for an object: `pods "x" is forbidden: why`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = group_resource(group, resource);
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{qualified} is forbidden: {why}")
        } else {
            format!("{qualified} {name:?} is forbidden: {why}")
        };
        ApiError::new(Reason::Forbidden, message).with_object(group, resource, name)
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", group_resource(group, resource));
        ApiError::new(Reason::NotFound, message).with_object(group, resource, name)
    }

    /// 404 for a path that serves nothing.
    pub fn no_such_path() -> Self {
        ApiError::new(Reason::NotFound, "the server could not find the requested resource")
    }

    /// 409 for a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", group_resource(group, resource));
        ApiError::new(Reason::AlreadyExists, message).with_object(group, resource, name)
    }

    /// 409 for a failed precondition.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = group_resource(group, resource);
        let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
        ApiError::new(Reason::Conflict, message).with_object(group, resource, name)
    }

    /// 409 for a stale resourceVersion.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(group, resource, name, why)
    }

    /// 422 with one cause an error. `kind` is the kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Self {
        let qualified = group_resource(group, kind);
        let message = format!("{qualified} {name:?} is invalid: {}", errors.aggregate());
        ApiError::new(Reason::Invalid, message).with_object(group, kind, name).with_causes(errors.causes())
    }

    /// 405.
    pub fn method_not_allowed(group: &str, resource: &str, action: &str) -> Self {
        let qualified = group_resource(group, resource);
        let message = format!("{action} is not supported on resources of kind {qualified:?}");
        ApiError::new(Reason::MethodNotAllowed, message).with_object(group, resource, "")
    }

    /// 410 for a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        ApiError::new(Reason::Expired, message)
    }

    /// 500 with upstream's prefix.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        let cause = Cause { message: error.to_string(), ..Cause::default() };
        let message = format!("Internal error occurred: {error}");
        ApiError::new(Reason::InternalError, message).with_causes(vec![cause])
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        ApiError::new(Reason::ServiceUnavailable, message)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        ApiError::new(Reason::TooManyRequests, message).with_retry_after(retry_after_seconds)
    }

    /// 504 for an operation that took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        ApiError::new(Reason::Timeout, message)
    }

    /// True for this reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason
    }

    /// The `metav1.Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if self.reason != Reason::Unknown {
            status["reason"] = json!(self.reason.as_str());
        }
        if let Some(details) = &self.details {
            status["details"] = json!(details);
        }
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = json!(token);
        }
        status
    }

    /// From a `metav1.Status` object answered with HTTP `code`. Anything else becomes an unknown error with
    /// the code's usual reason.
    pub fn from_status(code: u16, status: &Value) -> Self {
        let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or("");
        if text("kind") != "Status" {
            let row = REASONS.iter().find(|row| row.2 == code && row.0 != Reason::Unknown);
            let message = format!("the server answered {code}");
            let mut error = ApiError::new(row.map_or(Reason::Unknown, |row| row.0), message);
            error.code = code;
            return error;
        }
        let details = status.get("details").and_then(|details| serde_json::from_value(details.clone()).ok());
        ApiError {
            code: status
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|n| u16::try_from(n).ok())
                .unwrap_or(code),
            reason: Reason::parse(text("reason")),
            message: text("message").to_owned(),
            details,
            continue_token: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_round_trip() {
        let error = ApiError::not_found("apps", "deployments", "x").with_retry_after(2);
        assert_eq!(error.message, "deployments.apps \"x\" not found");
        let status = error.to_status();
        assert_eq!(status["details"]["retryAfterSeconds"], 2);
        assert_eq!(ApiError::from_status(404, &status), error);
        assert_eq!(ApiError::from_status(404, &json!("text")).reason, Reason::NotFound);
    }
}

//! An answer that says why not, as the kubelet writes it: plain text, which the API server's proxy passes on.
//!
//! Must not know what was asked.

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderValue, Response, StatusCode};
use base::http::{self, Body};
use runtime::CriError;

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Refusal {
    /// HTTP code.
    pub code: StatusCode,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// With a code and a text.
    pub fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Refusal { code, text: text.into() }
    }

    /// 400.
    pub fn bad(text: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, text)
    }

    /// 500.
    pub fn broken(text: impl ToString) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text.to_string())
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(http::full(self.text));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.code == StatusCode::TOO_MANY_REQUESTS {
            // As long as the runtime keeps a prepared stream.
            headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

impl From<CriError> for Refusal {
    fn from(error: CriError) -> Self {
        let busy = error.to_string().starts_with("rpc error: code = ResourceExhausted");
        let code = match &error {
            error if error.is_not_found() => StatusCode::NOT_FOUND,
            _ if busy => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(code, error.to_string())
    }
}

//! What both ends of a command in a container agree on: stream types, how it ended, the terminal's size.
//!
//! Must not know how streams are carried.

use api::error::{ApiError, Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The header that names a SPDY stream's type.
pub const STREAM_TYPE: &str = "streamtype";
/// The header that offers and answers versions over SPDY.
pub const PROTOCOL_HEADER: &str = "X-Stream-Protocol-Version";
/// The newest version over SPDY.
pub const SPDY_COMMAND: &str = "v4.channel.k8s.io";
/// Port-forward over SPDY.
pub const SPDY_PORTS: &str = "portforward.k8s.io";

/// The terminal's size, as sent on the resize channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// It could not be run, or its end is not known.
    Error(ApiError),
}

impl Exit {
    /// From what the error channel carried; an empty one means success.
    pub fn parse(bytes: &[u8]) -> Exit {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Exit::Code(0);
        }
        let Ok(mut status @ Value::Object(_)) = serde_json::from_slice::<Value>(bytes) else {
            // Versions before 4 send a text.
            let text = String::from_utf8_lossy(bytes);
            return Exit::Error(ApiError::new(
                Reason::Unknown,
                format!("error executing remote command: {text}"),
            ));
        };
        if status["status"] == "Success" {
            return Exit::Code(0);
        }
        if status["reason"] == "NonZeroExitCode" {
            let causes = status["details"]["causes"].as_array();
            let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
            if let Some(Ok(code)) = code.and_then(|cause| cause["message"].as_str()).map(str::parse) {
                return Exit::Code(code);
            }
        }
        // A stream's Status carries no kind.
        status["kind"] = json!("Status");
        Exit::Error(ApiError::from_status(500, &status))
    }

    /// For the error channel of version 4 and later.
    pub fn to_status(&self) -> Value {
        match self {
            Exit::Code(0) => json!({"metadata": {}, "status": "Success"}),
            Exit::Code(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit code {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Exit::Error(error) => {
                let mut status = error.to_status();
                if let Some(fields) = status.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                status
            }
        }
    }

    /// For the error channel before version 4: nothing on success.
    pub fn to_text(&self) -> Option<String> {
        match self {
            Exit::Code(0) => None,
            Exit::Code(code) => Some(format!("command terminated with non-zero exit code: exit code {code}")),
            Exit::Error(error) => Some(error.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_round_trip() {
        let error = ApiError::internal("lost");
        for exit in [Exit::Code(0), Exit::Code(137), Exit::Error(error)] {
            assert_eq!(Exit::parse(exit.to_status().to_string().as_bytes()), exit);
        }
        assert_eq!(Exit::parse(b""), Exit::Code(0));
        assert!(matches!(Exit::parse(b"boom"), Exit::Error(error) if error.message.ends_with("boom")));
        let size = serde_json::to_string(&TerminalSize { width: 80, height: 24 }).expect("serializes");
        assert_eq!(size, r#"{"Width":80,"Height":24}"#);
    }

    #[test]
    fn what_is_no_object_is_a_text() {
        for text in ["\"ExitCode\"", "5", "[1]", "plain"] {
            let Exit::Error(error) = Exit::parse(text.as_bytes()) else { panic!("{text} is an error") };
            assert_eq!(error.message, format!("error executing remote command: {text}"));
        }
    }
}

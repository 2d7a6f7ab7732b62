//! A container's log over a WebSocket: the answer's bytes as binary messages.

use api::ApiError;
use base::http::Body;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::io::AsyncWriteExt;

use super::agent::{self, Target};
use crate::verbs::Call;

/// RFC 6455's fixed text.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Upgrades the client and sends it the log.
pub async fn log(
    call: &Call<'_>,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let headers = call.exchange.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|v| v.to_str().ok());
    let upgrade = call.exchange.head.extensions.get::<OnUpgrade>().cloned();
    let (Some(key), Some(upgrade)) = (key, upgrade) else {
        return Err(ApiError::bad_request("the connection cannot be upgraded"));
    };
    let accept = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(accept.as_ref());
    let asked = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok()).unwrap_or("");
    let protocol = asked
        .split(',')
        .map(str::trim)
        .find(|p| p.is_empty() || p.ends_with("binary.k8s.io") || p.ends_with("base64.binary.k8s.io"));
    let text = protocol.is_some_and(|p| p.starts_with("base64"));
    let response = agent::send(call.server, target, request).await?;
    call.server.tasks.spawn("log over a WebSocket", async move {
        if let Ok(stream) = upgrade.await {
            let _ = copy(TokioIo::new(stream), response.into_body(), text).await;
        }
    });
    let mut answer = Response::new(base::http::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(ApiError::internal)?);
    if let Some(protocol) = protocol.filter(|p| !p.is_empty()) {
        out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).map_err(ApiError::internal)?);
    }
    Ok(answer)
}

async fn copy(
    mut stream: impl tokio::io::AsyncWrite + Unpin,
    mut body: hyper::body::Incoming,
    text: bool,
) -> std::io::Result<()> {
    // An empty first message tells the client that the stream is open, as upstream does.
    stream.write_all(&frame(text, &Bytes::new())).await?;
    while let Some(Ok(part)) = body.frame().await {
        if let Ok(data) = part.into_data() {
            let payload =
                if text { base64::engine::general_purpose::STANDARD.encode(&data).into() } else { data };
            stream.write_all(&frame(text, &payload)).await?;
        }
    }
    stream.write_all(&[0x88, 0x02, 0x03, 0xe8]).await?;
    stream.shutdown().await
}

fn frame(text: bool, payload: &Bytes) -> Vec<u8> {
    let mut out = vec![if text { 0x81 } else { 0x82 }];
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xffff => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

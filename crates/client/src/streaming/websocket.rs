//! WebSocket over an upgraded HTTP connection, both ends: the handshake, the socket, a byte stream over it.
//!
//! Must not know what the messages mean.

use std::time::Duration;

use ::http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use base::http::{self, Body};
use base::{Cancel, Clock, Rng, Tasks};
use base64::Engine as _;
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// The largest message taken. kubectl's are 32 KiB.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// What may wait to be written before sending waits too.
const MAX_WRITE_BYTES: usize = MAX_MESSAGE_BYTES + (1 << 20);
/// Bytes on their way between a byte stream and its socket, each way.
const PIPE_BYTES: usize = 64 * 1024;
/// How often a quiet connection is shown to be alive.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A socket over HTTP.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why a request is not answered with a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A header that must be there.
    #[error("websocket: header {name} is missing or wrong")]
    Header {
        /// The header.
        name: &'static str,
    },
    /// No common subprotocol. The text is the one upstream's server writes.
    #[error("requested protocol(s) are not supported: [{offered}]; supports [{known}]")]
    Protocol {
        /// By the client.
        offered: String,
        /// By us.
        known: String,
    },
}

/// The values of a comma-separated header.
pub fn list(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let items = values.flat_map(|value| value.split(',')).map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// True when the request asks to go on with the protocol `name`.
pub fn wants_upgrade(headers: &HeaderMap, name: &str) -> bool {
    let has = |header, text: &str| list(headers, header).iter().any(|item| item.eq_ignore_ascii_case(text));
    has(CONNECTION, "upgrade") && has(UPGRADE, name)
}

/// The subprotocols that the client offers, its favourite first.
pub fn offers(headers: &HeaderMap) -> Vec<String> {
    list(headers, SEC_WEBSOCKET_PROTOCOL)
}

/// The answer that turns a request's connection into a WebSocket.
pub fn accept(headers: &HeaderMap, protocol: &str) -> Result<Response<Body>, HandshakeError> {
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !version {
        return Err(HandshakeError::Header { name: "Sec-WebSocket-Version" });
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(HandshakeError::Header { name: "Sec-WebSocket-Key" });
    };
    let mut response = Response::new(http::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let text = derive_accept_key(key.as_bytes());
    out.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(text).expect("base64 is a header value"));
    if !protocol.is_empty() {
        let value = HeaderValue::try_from(protocol);
        out.insert(
            SEC_WEBSOCKET_PROTOCOL,
            value.map_err(|_| HandshakeError::Header { name: "Sec-WebSocket-Protocol" })?,
        );
    }
    Ok(response)
}

/// A request for a WebSocket at `path`, and the key to check the answer with.
pub fn request(path: &str, protocols: &[&str], rng: &Rng) -> Result<(Request<Body>, String), ::http::Error> {
    let mut nonce = [0; 16];
    rng.fill(&mut nonce);
    let key = base64::engine::general_purpose::STANDARD.encode(nonce);
    let mut builder = Request::builder().method(Method::GET).uri(path);
    for (name, value) in [
        (CONNECTION, "Upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_VERSION, "13"),
        (SEC_WEBSOCKET_KEY, &key),
        (SEC_WEBSOCKET_PROTOCOL, &protocols.join(", ")),
    ] {
        builder = builder.header(name, value);
    }
    Ok((builder.body(http::empty())?, key))
}

/// The subprotocol that the server chose, if its answer to a request with `key` is right.
pub fn accepted<B>(response: &Response<B>, key: &str) -> Result<String, HandshakeError> {
    let headers = response.headers();
    let expect = derive_accept_key(key.as_bytes());
    if headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| accept.as_bytes() != expect.as_bytes()) {
        return Err(HandshakeError::Header { name: "Sec-WebSocket-Accept" });
    }
    Ok(list(headers, SEC_WEBSOCKET_PROTOCOL).into_iter().next().unwrap_or_default())
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BYTES)
}

/// The server's end, after [`accept`].
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

/// The client's end, after [`accepted`].
pub async fn client<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(io, Role::Client, Some(config())).await
}

/// A message's content; `None` for control messages.
pub fn content(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

/// A message with this content, as text where the protocol wants it.
pub fn message(content: Vec<u8>, text: bool) -> Message {
    if !text {
        return Message::Binary(content.into());
    }
    match String::from_utf8(content) {
        Ok(content) => Message::Text(content.into()),
        Err(error) => Message::Binary(error.into_bytes().into()),
    }
}

/// The farewell of a server that is done.
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// The bytes in a socket's messages as one stream; writes become binary messages. The socket is closed when the
/// stream is dropped or shut down.
pub fn byte_stream<S>(socket: WebSocketStream<S>, clock: &Clock, tasks: &Tasks) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let clock = clock.clone();
    tasks.spawn("websocket bytes", async move { tunnel(socket, far, &clock).await });
    near
}

/// Carries bytes between a socket's messages and `io` until either ends.
pub async fn tunnel<S, T>(socket: WebSocketStream<S>, io: T, clock: &Clock)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite,
{
    let (sink, source) = socket.split();
    let (read, write) = tokio::io::split(io);
    // Either side's end ends the other after what it sent has arrived.
    let ended = Cancel::new();
    let inward = async {
        let _ = messages_to_bytes(source, write).await;
        ended.cancel();
    };
    let outward = async {
        let _ = bytes_to_messages(read, sink, &ended, clock).await;
    };
    tokio::select! {
        () = outward => {}
        () = async { inward.await; std::future::pending::<()>().await } => {}
    }
}

async fn messages_to_bytes<R, W>(mut source: R, mut write: W) -> Result<(), WsError>
where
    R: Stream<Item = Result<Message, WsError>> + Unpin,
    W: AsyncWrite + Unpin,
{
    while let Some(message) = source.next().await {
        if let Some(bytes) = content(message?) {
            write.write_all(&bytes).await?;
            write.flush().await?;
        }
    }
    write.shutdown().await?;
    Ok(())
}

async fn bytes_to_messages<R, W>(
    mut read: R,
    mut sink: W,
    ended: &Cancel,
    clock: &Clock,
) -> Result<(), WsError>
where
    R: AsyncRead + Unpin,
    W: Sink<Message, Error = WsError> + Unpin,
{
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let size = tokio::select! {
            biased;
            size = read.read(&mut buffer) => size?,
            () = ended.cancelled() => return Ok(()),
            () = clock.sleep(PING_INTERVAL) => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        if size == 0 {
            sink.send(goodbye()).await?;
            return sink.close().await;
        }
        sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..size]))).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_through_messages() {
        let (a, b) = tokio::io::duplex(1000);
        let (clock, tasks) = (Clock::system(), Tasks::new());
        let (server, client) = tokio::join!(server(a), client(b));
        let (mut server, mut client) =
            (byte_stream(server, &clock, &tasks), byte_stream(client, &clock, &tasks));
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let copy = sent.clone();
        let writer = tasks.spawn("writer", async move {
            client.write_all(&copy).await.expect("writes");
            client.shutdown().await.expect("shuts");
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("reads");
        assert!(got == sent);
        writer.await.expect("ends");
    }

    #[test]
    fn handshakes() {
        let (request, key) = request("/x", &["a", "b"], &Rng::seeded(1)).expect("made");
        assert!(wants_upgrade(request.headers(), "WebSocket"));
        assert!(!wants_upgrade(request.headers(), "SPDY/3.1"));
        assert_eq!(offers(request.headers()), ["a", "b"]);
        let response = accept(request.headers(), "b").expect("accepted");
        assert_eq!(accepted(&response, &key).expect("fits"), "b");
        assert!(accepted(&response, "other").is_err());
        assert!(accept(&HeaderMap::new(), "").is_err());
    }
}

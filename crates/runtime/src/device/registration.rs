//! The registration service that device plugins call, on HTTP/2 framing of its own: Go's gRPC names the socket's path
//! as the authority of its requests, which the HTTP/2 library refuses as malformed. One method is served here, so that
//! no header needs to be read.
//!
//! Must not know what is registered.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{RegisterRequest, VERSION};

/// What a client's connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// The largest frame that a client may send unasked.
const MAX_FRAME: usize = 16_384;
/// The largest request: names and a path.
const MAX_BODY: usize = 64 * 1024;
/// Calls at once on a connection, and connections at once.
const MAX_CALLS: usize = 16;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// Of settings and pings.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// gRPC's code and words of a refusal.
type Refusal = (u8, String);

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header as HPACK writes it without its tables (RFC 7541, section 6.2.2).
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(0);
    for text in [name, value] {
        // Seven bits hold every length that is written here.
        let text = &text[..text.len().min(126)];
        out.push(u8::try_from(text.len()).unwrap_or(0));
        out.extend_from_slice(text.as_bytes());
    }
}

/// The frames of an answer without content.
fn answer(out: &mut Vec<u8>, stream: u32, refusal: Option<&Refusal>) {
    // `:status 200` is the eighth entry of HPACK's static table.
    let mut headers = vec![0x88];
    header(&mut headers, "content-type", "application/grpc");
    frame(out, HEADERS, END_HEADERS, stream, &headers);
    if refusal.is_none() {
        // An empty message: not compressed, no bytes.
        frame(out, DATA, 0, stream, &[0; 5]);
    }
    let mut trailers = Vec::new();
    header(&mut trailers, "grpc-status", &refusal.map_or(0, |refusal| refusal.0).to_string());
    if let Some((_, text)) = refusal {
        header(&mut trailers, "grpc-message", text);
    }
    frame(out, HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
}

fn judge(body: &[u8]) -> Result<RegisterRequest, Refusal> {
    const INVALID: u8 = 3;
    const UNIMPLEMENTED: u8 = 12;
    let message = body.get(5..).filter(|_| body[0] == 0);
    let request = message.and_then(|message| RegisterRequest::decode(message).ok());
    let request = request.ok_or_else(|| (INVALID, "the request cannot be read".to_owned()))?;
    if request.version != VERSION {
        return Err((UNIMPLEMENTED, format!("only API version {VERSION} is supported")));
    }
    if request.endpoint.contains('/') || request.endpoint.is_empty() || !request.resource_name.contains('/') {
        return Err((INVALID, "the endpoint or the name of the resource is invalid".to_owned()));
    }
    Ok(request)
}

/// One connection's bytes so far.
#[derive(Default)]
struct Connection {
    greeted: bool,
    input: Vec<u8>,
    bodies: BTreeMap<u32, Vec<u8>>,
}

/// The client broke the protocol or took leave.
struct Over;

impl Connection {
    /// Takes bytes; what is to be sent goes to `out`, what was registered is returned.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<RegisterRequest>, Over> {
        self.input.extend_from_slice(bytes);
        let mut registered = Vec::new();
        if !self.greeted {
            if self.input.len() < PREFACE.len() {
                return Ok(registered);
            }
            if !self.input.starts_with(PREFACE) {
                return Err(Over);
            }
            self.input.drain(..PREFACE.len());
            self.greeted = true;
            frame(out, SETTINGS, 0, 0, &[]);
        }
        while self.input.len() >= FRAME_HEADER {
            let head: [u8; FRAME_HEADER] = self.input[..FRAME_HEADER].try_into().map_err(|_| Over)?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if length > MAX_FRAME {
                return Err(Over);
            }
            if self.input.len() < FRAME_HEADER + length {
                break;
            }
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let payload: Vec<u8> = self.input.drain(..FRAME_HEADER + length).skip(FRAME_HEADER).collect();
            registered.extend(self.frame(head[3], head[4], stream, &payload, out)?);
        }
        Ok(registered)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<RegisterRequest>, Over> {
        match kind {
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            GO_AWAY => return Err(Over),
            RESET => drop(self.bodies.remove(&stream)),
            HEADERS | DATA => return self.part(kind, flags, stream, payload, out),
            _ => {}
        }
        Ok(None)
    }

    /// A part of a call; with the last one it is answered.
    fn part(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<RegisterRequest>, Over> {
        let body = self.bodies.entry(stream).or_default();
        if kind == DATA {
            let padding =
                if flags & PADDED == 0 { None } else { Some(usize::from(*payload.first().ok_or(Over)?)) };
            let end = payload.len().checked_sub(padding.unwrap_or(0)).ok_or(Over)?;
            body.extend_from_slice(payload.get(usize::from(padding.is_some())..end).ok_or(Over)?);
        }
        if body.len() > MAX_BODY || self.bodies.len() > MAX_CALLS {
            return Err(Over);
        }
        if flags & END_STREAM == 0 {
            return Ok(None);
        }
        let judged = judge(&self.bodies.remove(&stream).unwrap_or_default());
        answer(out, stream, judged.as_ref().err());
        Ok(judged.ok())
    }
}

async fn talk(mut stream: UnixStream, registrations: &mpsc::UnboundedSender<RegisterRequest>) {
    let (mut connection, mut buffer) = (Connection::default(), vec![0; 8 * 1024]);
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        let mut out = Vec::new();
        let taken = connection.take(&buffer[..count], &mut out);
        if stream.write_all(&out).await.is_err() {
            return;
        }
        let Ok(taken) = taken else { return };
        for request in taken {
            let _ = registrations.send(request);
        }
    }
}

/// Serves registrations; each one is sent on.
pub async fn serve(listener: UnixListener, registrations: mpsc::UnboundedSender<RegisterRequest>) {
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let stream = listener.accept().await.ok().map(|(stream, _)| stream);
        Some((stream, listener))
    });
    let registrations = &registrations;
    let each = |stream: Option<UnixStream>| async move {
        if let Some(stream) = stream {
            talk(stream, registrations).await;
        }
    };
    incoming.for_each_concurrent(MAX_CALLS, each).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_connections_end() {
        let take = |bytes: &[u8]| Connection::default().take(bytes, &mut Vec::new()).is_err();
        assert!(take(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let with = |rest: &[u8]| take(&[PREFACE, rest].concat());
        assert!(with(&[0xff, 0, 0, DATA, 0, 0, 0, 0, 1]), "too large a frame");
        assert!(with(&[0, 0, 1, DATA, PADDED, 0, 0, 0, 1, 9]), "more padding than there is");
        assert!(with(&[0, 0, 0, GO_AWAY, 0, 0, 0, 0, 0]));
        assert!(!with(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn requests_are_judged() {
        let body = |version: &str, endpoint: &str, resource: &str| {
            let request = RegisterRequest {
                version: version.into(),
                endpoint: endpoint.into(),
                resource_name: resource.into(),
                options: None,
            };
            [&[0, 0, 0, 0, 0][..], &request.encode_to_vec()].concat()
        };
        for (body, expect) in [
            (body(VERSION, "x.sock", "a/b"), None),
            (body("v1", "x.sock", "a/b"), Some(12)),
            (body(VERSION, "../x", "a/b"), Some(3)),
            (body(VERSION, "x.sock", "cpu"), Some(3)),
            (Vec::new(), Some(3)),
        ] {
            assert_eq!(judge(&body).err().map(|refusal| refusal.0), expect, "{body:?}");
        }
    }
}

//! Connections of the hostile client: TLS and nothing else, so that everything above it can be wrong on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Clock;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long an answer may take before the hostile client gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server that is attacked, and the sums of an attack.
#[derive(Clone)]
pub struct Peer {
    pub port: u16,
    pub clock: Clock,
    pub tls: Arc<rustls::ClientConfig>,
    pub tls2: Arc<rustls::ClientConfig>,
    pub sums: Arc<Sums>,
}

/// What an attack came to.
#[derive(Default)]
pub struct Sums {
    /// Bytes written.
    pub sent: AtomicU64,
    /// Answers: refused (4xx), done (2xx), broken (5xx), connections cut.
    pub answers: [AtomicU64; 4],
}

impl Sums {
    pub fn count(&self, code: Option<u16>) {
        let at = match code {
            Some(200..=299) => 1,
            Some(500..) => 2,
            Some(_) => 0,
            None => 3,
        };
        self.answers[at].fetch_add(1, Ordering::Relaxed);
    }
}

impl Peer {
    /// A TLS connection; HTTP/2 when asked for.
    pub async fn connect(&self, h2: bool) -> Option<TlsStream<TcpStream>> {
        let config = if h2 { &self.tls2 } else { &self.tls };
        let connect = async {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let name = ServerName::try_from("localhost").ok()?;
            TlsConnector::from(Arc::clone(config)).connect(name, stream).await.ok()
        };
        self.clock.timeout(PATIENCE, connect).await.flatten()
    }

    /// Writes bytes; false when the other side has had enough.
    pub async fn write(&self, stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(64 * 1024) {
            if !matches!(self.clock.timeout(PATIENCE, stream.write_all(piece)).await, Some(Ok(()))) {
                return false;
            }
            self.sums.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        matches!(self.clock.timeout(PATIENCE, stream.flush()).await, Some(Ok(())))
    }

    /// Reads an answer with a length or in chunks; its code, and whether the connection can be used again.
    pub async fn answer(&self, stream: &mut TlsStream<TcpStream>) -> Option<(u16, bool)> {
        self.clock.timeout(PATIENCE, read_answer(stream)).await.flatten()
    }
}

async fn read_answer(stream: &mut TlsStream<TcpStream>) -> Option<(u16, bool)> {
    let (mut buffer, mut head) = (Vec::new(), None);
    let mut piece = vec![0; 64 * 1024];
    loop {
        if head.is_none()
            && let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let code: u16 = text.split(' ').nth(1)?.parse().ok()?;
            let field =
                |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
            let length: Option<usize> = field("content-length:").and_then(|text| text.parse().ok());
            let open = field("connection:").as_deref() != Some("close");
            buffer.drain(..end + 4);
            head = Some((code, length, open));
        }
        match head {
            Some((code, Some(length), open)) if buffer.len() >= length => return Some((code, open)),
            Some((code, None, open)) if buffer.ends_with(b"0\r\n\r\n") => return Some((code, open)),
            // Only the end matters.
            Some((_, None, _)) if buffer.len() > 1 << 20 => drop(buffer.drain(..buffer.len() - 16)),
            _ => {}
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return head.map(|(code, ..)| (code, false)),
            Ok(read) => buffer.extend_from_slice(&piece[..read]),
        }
    }
}

/// A request's head on HTTP/1.1.
pub fn head(method: &str, path: &str, token: &str, media: &str, length: usize) -> Vec<u8> {
    let who = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let body = if media.is_empty() {
        String::new()
    } else {
        format!("Content-Type: {media}\r\nContent-Length: {length}\r\n")
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{who}{body}\r\n").into_bytes()
}

/// A frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of an HTTP/2 connection.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}

fn text(value: &str, out: &mut Vec<u8>) {
    let length = value.len();
    if length < 127 {
        out.push(u8::try_from(length).expect("below 127"));
    } else {
        out.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
            rest /= 128;
        }
        out.push(u8::try_from(rest).expect("below 128"));
    }
    out.extend_from_slice(value.as_bytes());
}

/// A GET's header block, without compression.
pub fn get_block(path: &str, token: &str) -> Vec<u8> {
    let mut out = vec![0x82, 0x87, 0x04];
    text(path, &mut out);
    out.push(0x01);
    text("localhost", &mut out);
    if !token.is_empty() {
        out.push(0x00);
        text("authorization", &mut out);
        text(&format!("Bearer {token}"), &mut out);
    }
    out
}

//! Large answers compressed for clients that are elsewhere and ask for it. It must not know what is answered.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use base::BoxError;
use base::http::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};

use crate::listen::Address;
use crate::server::Exchange;

/// Smaller answers are not worth it, as upstream.
const LEAST: u64 = 128 * 1024;
/// Compressed bytes handed on at a time.
const CHUNK: usize = 32 * 1024;

/// Compresses an answer where that helps.
pub fn apply(exchange: &Exchange, response: Response<Body>) -> Response<Body> {
    if !wanted(exchange) || !suits(&response) {
        return response;
    }
    let (mut parts, inner) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    Response::from_parts(parts, base::http::wrap(Compressed { inner, encoder }))
}

/// On one machine compressing costs more than it saves.
fn wanted(exchange: &Exchange) -> bool {
    let local = exchange.head.extensions.get::<Address>().is_none_or(|address| address.0.ip().is_loopback());
    let accept = exchange.headers().get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    let gzip = accept.split(',').any(|part| part.split(';').next().is_some_and(|name| name.trim() == "gzip"));
    !local && gzip && exchange.info.verb != "watch"
}

fn suits(response: &Response<Body>) -> bool {
    let media = response.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    response.status() == StatusCode::OK
        && !response.headers().contains_key(CONTENT_ENCODING)
        && (media.starts_with(b"application/json") || media.ends_with(b"protobuf"))
        && response.body().size_hint().lower() >= LEAST
}

struct Compressed {
    inner: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    if encoder.get_ref().len() >= CHUNK {
                        let out = std::mem::take(encoder.get_mut());
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Poll::Ready(None) => {
                    let last = this.encoder.take().map(GzEncoder::finish);
                    return Poll::Ready(
                        last.map(|out| out.map(|bytes| Frame::data(bytes.into())).map_err(Into::into)),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn what_is_compressed_reads_the_same() {
        let text = "navarch ".repeat(100_000);
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let body = base::http::wrap(Compressed { inner: base::http::full(text.clone()), encoder });
        let bytes = base::http::read(body, usize::MAX).await.expect("a body");
        assert!(bytes.len() < text.len() / 10);
        let mut out = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut out).expect("gzip");
        assert_eq!(out, text);
    }
}

//! `GET /navarch/backup`: every object of one revision as one file, made while reads and writes go on.
//!
//! A path of its own, authorized like any other (`nonResourceURLs`): whoever may read it may read every Secret.
//! It must not know what a backup looks like inside.

use std::io;
use std::sync::Arc;

use base::http::{Body, BodySender};
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::server::Server;

/// Pieces under way to a slow client, of at most [`PIECE_BYTES`] each.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 256 << 10;

/// Sends a backup. One that breaks off lacks its end, and so is none.
pub fn serve(server: &Server) -> Response<Body> {
    let (sender, body) = base::http::channel(PIECES);
    let (out, store) = (Pieces { sender: sender.clone(), full: Vec::new() }, server.store.clone());
    server.tasks.spawn("backup", async move {
        match store.backup_into(out).await {
            Ok(summary) => tracing::info!(?summary, "backup taken"),
            Err(error) => {
                tracing::warn!(%error, "backup broken off");
                let _ = sender.send(Err(Arc::new(error).into())).await;
            }
        }
    });
    let mut response = Response::new(body);
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response
}

/// Gathers what is written into pieces of a body. Used in a thread that may wait.
struct Pieces {
    sender: BodySender,
    full: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full.extend_from_slice(bytes);
        if self.full.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.full.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.full));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        self.sender.blocking_send(Ok(piece)).map_err(gone)
    }
}

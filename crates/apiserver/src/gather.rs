//! Writes on their way to TLS, gathered until they are flushed: HTTP/2 writes a frame at a time, and each would be a
//! record too many and a system call of its own. It must not know what is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written without being asked for: four of TLS's largest records. What a client does
/// not read is held that far beyond what TLS and the kernel hold.
const ROOM: usize = 64 * 1024;

/// A stream whose writes are gathered.
pub struct Gather<S> {
    stream: S,
    /// Written and not passed on yet, from `passed` on.
    held: Vec<u8>,
    passed: usize,
    /// Whether to gather at all: HTTP/1.1 writes whole messages of its own accord.
    on: bool,
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Around a stream.
    pub fn new(stream: S, on: bool) -> Gather<S> {
        Gather { stream, held: Vec::new(), passed: 0, on }
    }

    /// Passes on what is held; the room is given back, since most connections are idle most of the time.
    fn pass(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed < self.held.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held[self.passed..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.passed += written;
        }
        (self.held, self.passed) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Room for more, made by passing on what is held when that fills it.
    fn room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.held.len() >= ROOM {
            ready!(self.pass(context))?;
        }
        Poll::Ready(Ok(ROOM - self.held.len()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.on {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        let room = ready!(self.room(context))?.min(bytes.len());
        self.held.extend_from_slice(&bytes[..room]);
        Poll::Ready(Ok(room))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.on {
            return Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        }
        let room = ready!(self.room(context))?;
        let mut taken = 0;
        for piece in pieces {
            let part = piece.len().min(room - taken);
            self.held.extend_from_slice(&piece[..part]);
            taken += part;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.on || self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn writes_go_on_when_flushed_or_when_there_are_enough() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Gather::new(near, true);
        let mut seen = vec![0; 1 << 20];
        near.write_all(b"ab").await.expect("written");
        near.write_vectored(&[IoSlice::new(b"c"), IoSlice::new(b"de")]).await.expect("written");
        assert!(futures::poll!(Box::pin(far.read(&mut seen))).is_pending());
        near.flush().await.expect("flushed");
        let read = far.read(&mut seen).await.expect("read");
        assert_eq!(&seen[..read], b"abcde");
        let long: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        near.write_all(&long).await.expect("written");
        near.shutdown().await.expect("closed");
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest, long);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_the_writer_up() {
        let (near, far) = tokio::io::duplex(1024);
        let mut near = Gather::new(near, true);
        let long = vec![7; 4 * ROOM];
        let write = tokio::time::timeout(std::time::Duration::from_millis(50), near.write_all(&long)).await;
        assert!(write.is_err() && near.held.len() <= ROOM);
        drop(far);
    }
}

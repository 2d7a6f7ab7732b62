//! A SPDY connection at work: many streams over one socket, both roles. One task reads, one writes; every queue
//! is bounded, so a slow reader of one stream holds up the connection (SPDY peers here know no windows; TCP does
//! the holding, as with spdystream).
//!
//! Must not know what streams are for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::{Cancel, Clock, Tasks};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};

use super::spdy::{
    Decoder, Encoder, Frame, Headers, MAX_PIECE_BYTES, RST_CANCEL, RST_PROTOCOL_ERROR, RST_REFUSED, SpdyError,
};

/// Pieces of data waiting for a stream's reader: half a MiB.
const READ_QUEUE: usize = 16;
/// Frames waiting to be written.
const WRITE_QUEUE: usize = 32;
/// Streams that a peer opened and nobody has taken yet.
const ACCEPT_QUEUE: usize = 16;
/// How much is read from or gathered for the socket at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a farewell may take to be written.
const GOODBYE: Duration = Duration::from_secs(5);

/// Who made the connection: decides the stream numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Odd streams are ours.
    Client,
    /// Even streams are ours.
    Server,
}

/// Bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A connection on which nothing moves for so long is closed.
    pub idle: Duration,
    /// How long the peer may take to answer a new stream.
    pub open: Duration,
    /// Streams that the peer may have open.
    pub streams: usize,
}

impl Default for Limits {
    /// Upstream's 4 h and 30 s; a port-forward with 256 connections at once is generous.
    fn default() -> Self {
        Limits { idle: Duration::from_secs(4 * 3600), open: Duration::from_secs(30), streams: 512 }
    }
}

/// Why a connection or stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The peer ended the stream.
    #[error("the stream was reset")]
    Reset,
    /// The peer did not answer.
    #[error("no answer to a new stream in time")]
    Timeout,
    /// Nothing moved for too long.
    #[error("the connection was idle for too long")]
    Idle,
    /// What the peer sent makes no sense.
    #[error(transparent)]
    Protocol(#[from] SpdyError),
    /// The socket.
    #[error("SPDY connection: {0}")]
    Io(#[from] std::io::Error),
}

struct Entry {
    data: Option<mpsc::Sender<Bytes>>,
    reply: Option<oneshot::Sender<Result<(), MuxError>>>,
    local: Arc<Local>,
}

/// What a stream's halves share with the connection.
#[derive(Default)]
struct Local {
    reset: AtomicBool,
    finished: AtomicBool,
    remote_finished: AtomicBool,
}

struct Shared {
    role: Role,
    streams: Mutex<BTreeMap<u32, Entry>>,
    /// Frames that must go out though nobody waits for them; bounded by the streams.
    pending: Mutex<Vec<Frame>>,
    wake: Notify,
    /// Closed, or closing.
    over: Cancel,
    clock: Clock,
    active_ms: AtomicU64,
}

impl Shared {
    fn touch(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.active_ms.store(now, Ordering::Relaxed);
    }

    fn idle_for(&self) -> Duration {
        let since = Duration::from_millis(self.active_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(since)
    }

    fn leave(&self, frame: Frame) {
        self.pending.lock().push(frame);
        self.wake.notify_one();
    }

    fn ours(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.role == Role::Client)
    }
}

/// The end of a stream that both halves hold: cleans up when the last is dropped.
struct Handle {
    id: u32,
    local: Arc<Local>,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.streams.lock().remove(&self.id);
        let done =
            self.local.finished.load(Ordering::Acquire) && self.local.remote_finished.load(Ordering::Acquire);
        if !done && !self.local.reset.swap(true, Ordering::AcqRel) {
            self.shared.leave(Frame::Rst { id: self.id, status: RST_CANCEL });
        }
    }
}

/// The receiving half of a stream.
pub struct StreamReader {
    data: mpsc::Receiver<Bytes>,
    _handle: Arc<Handle>,
}

impl StreamReader {
    /// The next piece; `None` when the peer has finished or reset the stream, or the connection ended.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }
}

/// The sending half of a stream.
pub struct StreamWriter {
    frames: mpsc::Sender<Frame>,
    handle: Arc<Handle>,
}

impl StreamWriter {
    /// Sends `bytes`, waiting while the connection is busy.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), MuxError> {
        while !bytes.is_empty() {
            if self.handle.local.reset.load(Ordering::Acquire) {
                return Err(MuxError::Reset);
            }
            let piece = bytes.split_to(bytes.len().min(MAX_PIECE_BYTES));
            self.frame(Frame::Data { id: self.handle.id, fin: false, bytes: piece }).await?;
        }
        Ok(())
    }

    /// Says that nothing follows. Harmless when repeated.
    pub async fn finish(&self) -> Result<(), MuxError> {
        if self.handle.local.finished.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.frame(Frame::Data { id: self.handle.id, fin: true, bytes: Bytes::new() }).await
    }

    /// Ends the stream in both directions, as something that went wrong.
    pub fn reset(&self) {
        if !self.handle.local.reset.swap(true, Ordering::AcqRel) {
            self.handle.shared.leave(Frame::Rst { id: self.handle.id, status: RST_CANCEL });
        }
        self.handle.shared.streams.lock().remove(&self.handle.id);
    }

    async fn frame(&self, frame: Frame) -> Result<(), MuxError> {
        let over = &self.handle.shared.over;
        match over.run(self.frames.send(frame)).await {
            Some(Ok(())) => Ok(()),
            _ => Err(MuxError::Closed),
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.handle.local.finished.load(Ordering::Acquire) {
            self.reset();
        }
    }
}

/// One stream.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What it was opened with.
    pub headers: Headers,
    /// From the peer.
    pub reader: StreamReader,
    /// To the peer.
    pub writer: StreamWriter,
}

/// A connection. It is closed when this and all streams' writers are dropped, after what they sent is written.
pub struct Session {
    frames: mpsc::Sender<Frame>,
    next_id: tokio::sync::Mutex<u32>,
    incoming: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
    limits: Limits,
}

impl Session {
    /// Speaks SPDY over `io`.
    pub fn start<S>(io: S, role: Role, limits: Limits, clock: &Clock, tasks: &Tasks) -> Session
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            role,
            streams: Mutex::default(),
            pending: Mutex::default(),
            wake: Notify::new(),
            over: tasks.cancel_token().child(),
            clock: clock.clone(),
            active_ms: AtomicU64::new(0),
        });
        shared.touch();
        let (read, write) = tokio::io::split(io);
        let (frames, queue) = mpsc::channel(WRITE_QUEUE);
        let (accept, incoming) = mpsc::channel(ACCEPT_QUEUE);
        let reading = Reading { shared: shared.clone(), frames: frames.downgrade(), accept, limits, last: 0 };
        tasks.spawn_detached("spdy read", reading.run(read));
        tasks.spawn_detached("spdy write", write_loop(write, queue, shared.clone()));
        let next_id = tokio::sync::Mutex::new(if role == Role::Client { 1 } else { 2 });
        Session { frames, next_id, incoming, shared, limits }
    }

    /// Opens a stream and waits until the peer takes it: what is sent before that is lost with spdystream.
    pub async fn open(&self, headers: Headers) -> Result<Stream, MuxError> {
        let (answer, answered) = oneshot::channel();
        let stream = {
            // Numbers must reach the peer in order.
            let mut next_id = self.next_id.lock().await;
            let id = *next_id;
            if id > 0x7fff_fffd {
                return Err(MuxError::Closed);
            }
            *next_id += 2;
            let stream = new_stream(&self.shared, &self.frames, id, headers.clone(), Some(answer), false);
            let (associated, priority, fin, unidirectional) = (0, 0, false, false);
            let frame = Frame::SynStream { id, associated, priority, fin, unidirectional, headers };
            stream.writer.frame(frame).await?;
            stream
        };
        let wait = self.shared.over.run(answered);
        match self.shared.clock.timeout(self.limits.open, wait).await {
            Some(Some(Ok(result))) => result.map(|()| stream),
            Some(_) => Err(MuxError::Closed),
            None => Err(MuxError::Timeout),
        }
    }

    /// The next stream that the peer opens; `None` when the connection ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Waits until the connection ended.
    pub async fn closed(&self) {
        self.shared.over.cancelled().await;
    }

    /// Ends the connection at once.
    pub fn abort(&self) {
        self.shared.over.cancel();
    }
}

fn new_stream(
    shared: &Arc<Shared>,
    frames: &mpsc::Sender<Frame>,
    id: u32,
    headers: Headers,
    reply: Option<oneshot::Sender<Result<(), MuxError>>>,
    remote_finished: bool,
) -> Stream {
    let (sender, data) = mpsc::channel(READ_QUEUE);
    let local = Arc::new(Local { remote_finished: AtomicBool::new(remote_finished), ..Local::default() });
    let entry = Entry { data: (!remote_finished).then_some(sender), reply, local: local.clone() };
    shared.streams.lock().insert(id, entry);
    let handle = Arc::new(Handle { id, local, shared: shared.clone() });
    let reader = StreamReader { data, _handle: handle.clone() };
    Stream { id, headers, reader, writer: StreamWriter { frames: frames.clone(), handle } }
}

struct Reading {
    shared: Arc<Shared>,
    frames: mpsc::WeakSender<Frame>,
    accept: mpsc::Sender<Stream>,
    limits: Limits,
    /// The newest stream of the peer.
    last: u32,
}

impl Reading {
    async fn run<S: AsyncRead + Send>(mut self, mut read: ReadHalf<S>) {
        let over = self.shared.over.clone();
        if let Some(Err(error)) = over.run(self.read(&mut read)).await {
            tracing::debug!(%error, "SPDY connection ended");
        }
        over.cancel();
        // Readers see the end once they have taken what is queued.
        let streams = std::mem::take(&mut *self.shared.streams.lock());
        for entry in streams.into_values() {
            entry.local.reset.store(true, Ordering::Release);
            if let Some(reply) = entry.reply {
                let _ = reply.send(Err(MuxError::Closed));
            }
        }
    }

    async fn read<S: AsyncRead>(&mut self, read: &mut ReadHalf<S>) -> Result<(), MuxError> {
        let (mut decoder, mut buffer) = (Decoder::new(), vec![0; CHUNK_BYTES]);
        loop {
            while let Some(frame) = decoder.next()? {
                if !self.frame(frame).await? {
                    return Ok(());
                }
            }
            let left = self.limits.idle.saturating_sub(self.shared.idle_for());
            match self.shared.clock.timeout(left, read.read(&mut buffer)).await {
                Some(size) => match size? {
                    0 => return Ok(()),
                    size => decoder.push(&buffer[..size]),
                },
                None if self.shared.idle_for() >= self.limits.idle => return Err(MuxError::Idle),
                None => continue,
            }
            self.shared.touch();
        }
    }

    /// False when the peer says goodbye. spdystream reads nothing after that, so nothing can follow.
    async fn frame(&mut self, frame: Frame) -> Result<bool, MuxError> {
        match frame {
            Frame::Data { id, fin, bytes } => self.data(id, fin, bytes).await,
            Frame::SynStream { id, headers, fin, .. } => self.syn(id, headers, fin).await?,
            Frame::SynReply { id, fin, .. } => {
                let reply = self.shared.streams.lock().get_mut(&id).and_then(|entry| entry.reply.take());
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(()));
                }
                if fin {
                    self.data(id, true, Bytes::new()).await;
                }
            }
            Frame::Rst { id, .. } => {
                if let Some(entry) = self.shared.streams.lock().remove(&id) {
                    entry.local.reset.store(true, Ordering::Release);
                    if let Some(reply) = entry.reply {
                        let _ = reply.send(Err(MuxError::Reset));
                    }
                }
            }
            Frame::Ping { id } if !self.shared.ours(id) => self.send(Frame::Ping { id }).await,
            Frame::Headers { id, fin: true, .. } => self.data(id, true, Bytes::new()).await,
            Frame::GoAway { .. } => return Ok(false),
            Frame::Ping { .. }
            | Frame::Headers { .. }
            | Frame::Settings { .. }
            | Frame::WindowUpdate { .. } => {}
        }
        Ok(true)
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        let sender = self.shared.streams.lock().get(&id).and_then(|entry| entry.data.clone());
        if let (Some(sender), false) = (sender, bytes.is_empty()) {
            // Who no longer reads loses it.
            let _ = sender.send(bytes).await;
        }
        if fin && let Some(entry) = self.shared.streams.lock().get_mut(&id) {
            entry.data = None;
            entry.local.remote_finished.store(true, Ordering::Release);
        }
    }

    async fn syn(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), MuxError> {
        if self.shared.ours(id) || id <= self.last {
            self.send(Frame::Rst { id, status: RST_PROTOCOL_ERROR }).await;
            return Ok(());
        }
        self.last = id;
        let open = self.shared.streams.lock().keys().filter(|id| !self.shared.ours(**id)).count();
        let frames = self.frames.upgrade();
        let (Some(frames), true) = (frames, open < self.limits.streams) else {
            self.send(Frame::Rst { id, status: RST_REFUSED }).await;
            return Ok(());
        };
        let stream = new_stream(&self.shared, &frames, id, headers, None, fin);
        let _ = frames.send(Frame::SynReply { id, fin: false, headers: Headers::new() }).await;
        drop(frames);
        // Nobody accepts: dropping the stream resets it.
        let _ = self.accept.send(stream).await;
        Ok(())
    }

    async fn send(&self, frame: Frame) {
        if let Some(frames) = self.frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    }
}

async fn write_loop<S: AsyncWrite + Send>(
    mut write: WriteHalf<S>,
    mut queue: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
) {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    let over = shared.over.clone();
    let work = async {
        loop {
            let first = tokio::select! {
                biased;
                frame = queue.recv() => frame,
                () = shared.wake.notified() => shared.pending.lock().pop(),
            };
            let Some(first) = first else {
                if queue.is_closed() && queue.is_empty() {
                    break;
                } else {
                    continue;
                };
            };
            encoder.encode(&first, &mut out)?;
            while out.len() < CHUNK_BYTES
                && let Ok(frame) = queue.try_recv()
            {
                encoder.encode(&frame, &mut out)?;
            }
            for frame in std::mem::take(&mut *shared.pending.lock()) {
                encoder.encode(&frame, &mut out)?;
            }
            write.write_all(&out).await?;
            write.flush().await?;
            out.clear();
            shared.touch();
        }
        Ok::<(), MuxError>(())
    };
    if let Some(Err(error)) = over.run(work).await {
        tracing::debug!(%error, "SPDY connection cannot be written");
    }
    let goodbye = async {
        let _ = encoder.encode(&Frame::GoAway { last: 0, status: 0 }, &mut out);
        let _ = write.write_all(&out).await;
        let _ = write.shutdown().await;
    };
    shared.clock.timeout(GOODBYE, goodbye).await;
    over.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(limits: Limits, buffer: usize) -> (Session, Session, Tasks) {
        let (a, b) = tokio::io::duplex(buffer);
        let (clock, tasks) = (Clock::system(), Tasks::new());
        let client = Session::start(a, Role::Client, limits, &clock, &tasks);
        (client, Session::start(b, Role::Server, limits, &clock, &tasks), tasks)
    }

    fn named(name: &str) -> Headers {
        vec![("name".to_owned(), name.to_owned())]
    }

    async fn all(reader: &mut StreamReader) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = reader.recv().await {
            out.extend_from_slice(&piece);
        }
        out
    }

    #[tokio::test]
    async fn streams_carry_both_ways_and_close_by_halves() {
        let (client, mut server, tasks) = pair(Limits::default(), 1000);
        tasks.spawn("echo", async move {
            while let Some(mut stream) = server.accept().await {
                let got = all(&mut stream.reader).await;
                let name = stream.headers[0].1.clone();
                stream.writer.send([name.as_bytes(), &got].concat().into()).await.expect("sends");
                stream.writer.finish().await.expect("finishes");
            }
        });
        let large: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        for (name, body) in [("a", b"x".to_vec()), ("b", large), ("c", Vec::new())] {
            let mut stream = client.open(named(name)).await.expect("opens");
            stream.writer.send(body.clone().into()).await.expect("sends");
            stream.writer.finish().await.expect("finishes");
            assert_eq!(all(&mut stream.reader).await, [name.as_bytes(), &body].concat(), "{name}");
        }
        assert!(client.shared.streams.lock().is_empty());
    }

    #[tokio::test]
    async fn dropping_resets_and_closing_ends() {
        let (client, mut server, _tasks) = pair(Limits::default(), 1000);
        let mut stream = client.open(named("a")).await.expect("opens");
        drop(server.accept().await.expect("a stream"));
        assert_eq!(stream.reader.recv().await, None);
        assert!(matches!(stream.writer.send("x".into()).await, Err(MuxError::Reset)));
        let mut held = client.open(named("b")).await.expect("opens");
        let taken = server.accept().await.expect("a stream");
        taken.writer.send("last".into()).await.expect("sends");
        taken.writer.finish().await.expect("sends");
        assert_eq!(held.reader.recv().await.expect("data"), "last");
        drop((held, stream, client));
        assert!(server.accept().await.is_none());
        server.closed().await;
    }

    #[tokio::test]
    async fn too_many_streams_are_refused() {
        let (client, mut server, _tasks) = pair(Limits { streams: 2, ..Limits::default() }, 1000);
        let one = client.open(named("1")).await.expect("opens");
        let _two = client.open(named("2")).await.expect("opens");
        assert!(matches!(client.open(named("3")).await, Err(MuxError::Reset)));
        drop((one, server.accept().await));
        // The reset of the first stream travels before the new one.
        client.open(named("4")).await.expect("opens");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_and_silent_peers_end() {
        let limits = Limits { idle: Duration::from_secs(60), ..Limits::default() };
        let (client, server, tasks) = pair(limits, 1000);
        client.closed().await;
        server.closed().await;
        let (io, _silent) = tokio::io::duplex(1000);
        let session = Session::start(io, Role::Client, Limits::default(), &Clock::system(), &tasks);
        assert!(matches!(session.open(named("a")).await, Err(MuxError::Timeout)));
    }
}

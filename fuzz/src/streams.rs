//! Framing: SPDY, the channels of WebSocket streams, and WebSocket itself with our limits.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use client::streaming::channel::{COMMAND, Event, PLAIN, PORTS, TUNNEL};
use client::streaming::command::Exit;
use client::streaming::spdy::{Decoder, Encoder, Frame, MAX_PIECE_BYTES};
use client::streaming::websocket;
use futures::{FutureExt as _, StreamExt as _};

use crate::Target;

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "spdy", run: run_spdy, seeds: spdy_seeds, words: Vec::new },
    Target { name: "websocket", run: run_websocket, seeds: websocket_seeds, words: websocket_words },
];

/// Frames of bytes that arrive in pieces of this size.
fn frames(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

/// Control frames and the data of all streams: data comes in other pieces when it arrives in others.
fn gist(frames: &[Frame]) -> (Vec<String>, Vec<(u32, Vec<u8>)>) {
    let (mut control, mut data) = (Vec::new(), Vec::<(u32, Vec<u8>)>::new());
    for frame in frames {
        let Frame::Data { id, bytes, .. } = frame else {
            control.push(format!("{frame:?}"));
            continue;
        };
        assert!(bytes.len() <= MAX_PIECE_BYTES);
        match data.last_mut().filter(|(last, _)| last == id) {
            Some((_, whole)) => whole.extend_from_slice(bytes),
            None => data.push((*id, bytes.to_vec())),
        }
    }
    (control, data)
}

fn run_spdy(data: &[u8]) {
    let whole = frames(data, data.len().max(1));
    assert_eq!(gist(&frames(data, 7)).0, gist(&whole).0, "control frames do not depend on the pieces");
    let mut encoder = Encoder::new();
    let mut out = BytesMut::new();
    for frame in &whole {
        encoder.encode(frame, &mut out).expect("what was read can be written");
    }
    assert_eq!(gist(&frames(&out, out.len().max(1))), gist(&whole), "written and read again");
}

fn run_websocket(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for protocol in [COMMAND, PORTS, PLAIN, TUNNEL].into_iter().flatten() {
        if let Ok(Some(event)) = protocol.decode(&bytes) {
            let again = match &event {
                Event::Data { channel, bytes } => protocol.encode(*channel, bytes),
                Event::Close { channel } => protocol.encode_close(*channel),
            };
            assert_eq!(protocol.decode(&Bytes::from(again)), Ok(Some(event)), "{protocol:?}");
        }
    }
    let exit = Exit::parse(data);
    let _ = (exit.to_status(), exit.to_text());
    // Everything is there at once, so nothing waits.
    let read = async {
        let mut socket = websocket::server(tokio::io::join(Cursor::new(data), tokio::io::sink())).await;
        while let Some(Ok(message)) = socket.next().await {
            let _ = websocket::content(message);
        }
    };
    read.now_or_never().expect("a reader with all its bytes does not wait");
}

fn spdy_seeds() -> Vec<Vec<u8>> {
    let headers = vec![("streamtype".to_owned(), "stdin".to_owned()), (":path".to_owned(), "/".to_owned())];
    let text = |bytes: &'static [u8]| Bytes::from_static(bytes);
    let all = [
        Frame::SynStream {
            id: 1,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: headers.clone(),
        },
        Frame::SynReply { id: 1, fin: false, headers: headers.clone() },
        Frame::Data { id: 1, fin: false, bytes: text(b"hello") },
        Frame::Headers { id: 1, fin: false, headers },
        Frame::Settings { entries: vec![(0, 4, 100)] },
        Frame::Ping { id: 1 },
        Frame::WindowUpdate { id: 0, delta: 5 },
        Frame::Rst { id: 1, status: 5 },
        Frame::Data { id: 3, fin: true, bytes: text(b"") },
        Frame::GoAway { last: 1, status: 0 },
    ];
    let (mut encoder, mut out, mut seeds) = (Encoder::new(), BytesMut::new(), Vec::new());
    for frame in &all {
        encoder.encode(frame, &mut out).expect("a small frame");
        seeds.push(out.to_vec());
    }
    seeds
}

fn websocket_seeds() -> Vec<Vec<u8>> {
    let masked = |first: u8, text: &[u8]| {
        let length = u8::try_from(text.len()).expect("short") | 0x80;
        let mask = [1, 2, 3, 4];
        let body = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [first, length].into_iter().chain(mask).chain(body).collect::<Vec<u8>>()
    };
    vec![
        masked(0x82, b"\0hello"),
        masked(0x81, b"0aGVsbG8="),
        [masked(0x02, b"a"), masked(0x80, b"b"), masked(0x89, b"ping"), masked(0x88, b"\x03\xe8bye")].concat(),
        vec![0x82, 0xfe, 0x01, 0x00, 1, 2, 3, 4, 5],
        vec![0xff, 1],
        b"0aGVsbG8=".to_vec(),
        br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#.to_vec(),
    ]
}

fn websocket_words() -> Vec<String> {
    ["NonZeroExitCode", "\"causes\":", "\"ExitCode\"", "\"status\":\"Success\"", "=="]
        .map(String::from)
        .to_vec()
}

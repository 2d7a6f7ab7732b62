//! SPDY/3.1 framing (SPDY Protocol draft 3.1): bytes in, frames out, and back. What spdystream (the peer in
//! containerd, upstream's kubectl and API server) sends and takes is what counts: it neither sends window
//! updates nor obeys windows, so they are read and written here and otherwise left alone.
//!
//! Must not know sockets, streams' states, or what the streams carry.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
const ID_MASK: u32 = 0x7fff_ffff;

/// A control frame's payload: our peers' headers are a few hundred bytes.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// A header block after inflating: a small block must not become a large one.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Headers of one block.
pub const MAX_HEADERS: usize = 100;
/// The largest piece of data handed on or sent at once. A longer frame is handed on in pieces as it comes in.
pub const MAX_PIECE_BYTES: usize = 32 * 1024;

/// `RST_STREAM` status: the peer broke the protocol.
pub const RST_PROTOCOL_ERROR: u32 = 1;
/// `RST_STREAM` status: not taken, nothing was done.
pub const RST_REFUSED: u32 = 3;
/// `RST_STREAM` status: no longer wanted.
pub const RST_CANCEL: u32 = 5;

/// Names in lower case and values; a name with several values appears once for each.
pub type Headers = Vec<(String, String)>;

/// The first value of `name`.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Why bytes are not SPDY, or frames cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another version of the protocol.
    #[error("SPDY version {version} is not spoken here")]
    Version {
        /// The frame's version.
        version: u16,
    },
    /// A control frame beyond the limit.
    #[error("SPDY control frame of {bytes} bytes is larger than {MAX_CONTROL_BYTES}")]
    TooLarge {
        /// The frame's length.
        bytes: usize,
    },
    /// A frame's content does not fit its kind.
    #[error("SPDY frame of kind {kind}: {problem}")]
    Malformed {
        /// The frame's kind.
        kind: u16,
        /// What is wrong.
        problem: &'static str,
    },
    /// The compressed headers.
    #[error("SPDY headers: {problem}")]
    Headers {
        /// What is wrong.
        problem: &'static str,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    SynStream {
        /// The new stream.
        id: u32,
        /// The stream it belongs to; 0 = none.
        associated: u32,
        /// 0 (highest) to 7.
        priority: u8,
        /// The sender sends nothing on it.
        fin: bool,
        /// The receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A new stream is taken.
    SynReply {
        /// The stream.
        id: u32,
        /// Nothing follows on it.
        fin: bool,
        /// Headers of the answer.
        headers: Headers,
    },
    /// A stream ends abnormally.
    Rst {
        /// The stream.
        id: u32,
        /// Why; [`RST_CANCEL`] and so on.
        status: u32,
    },
    /// Settings of the connection: flags, id, value.
    Settings {
        /// One by one.
        entries: Vec<(u8, u32, u32)>,
    },
    /// To be sent back as it is.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// No new streams are taken.
    GoAway {
        /// The last stream taken.
        last: u32,
        /// Why; 0 = normal.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// Nothing follows on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// The receiver may send more.
    WindowUpdate {
        /// The stream; 0 = all.
        id: u32,
        /// By how many bytes.
        delta: u32,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        id: u32,
        /// Nothing follows on it.
        fin: bool,
        /// The data: at most [`MAX_PIECE_BYTES`] when read.
        bytes: Bytes,
    },
}

/// A data frame that is partly read.
#[derive(Debug)]
struct Partial {
    id: u32,
    fin: bool,
    left: usize,
}

/// Turns bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    partial: Option<Partial>,
    inflate: Decompress,
    /// The first error is the answer to everything after it.
    failed: Option<SpdyError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { buffer: BytesMut::new(), partial: None, inflate: Decompress::new(true), failed: None }
    }
}

impl Decoder {
    /// At the start of a connection.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` = more bytes are needed. Frames of unknown kinds are skipped.
    #[allow(clippy::should_implement_trait, reason = "it can fail and go on later")]
    pub fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.step().inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn step(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(partial) = self.partial.take() {
                return Ok(self.piece(partial));
            }
            let Some(head) = self.buffer.first_chunk::<8>().copied() else { return Ok(None) };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = head[4];
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first & !ID_MASK == 0 {
                self.buffer.advance(8);
                if first == 0 {
                    return Err(SpdyError::Malformed { kind: 0, problem: "data of stream 0" });
                }
                self.partial = Some(Partial { id: first, fin: flags & FLAG_FIN != 0, left: length });
                continue;
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != VERSION {
                return Err(SpdyError::Version { version });
            }
            if length > MAX_CONTROL_BYTES {
                return Err(SpdyError::TooLarge { bytes: length });
            }
            if self.buffer.len() < 8 + length {
                return Ok(None);
            }
            self.buffer.advance(8);
            let payload = self.buffer.split_to(length).freeze();
            if let Some(frame) = self.control(kind, flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    /// As much of a data frame as is there.
    fn piece(&mut self, mut partial: Partial) -> Option<Frame> {
        let size = partial.left.min(self.buffer.len()).min(MAX_PIECE_BYTES);
        if size == 0 && partial.left > 0 {
            self.partial = Some(partial);
            return None;
        }
        let bytes = self.buffer.split_to(size).freeze();
        partial.left -= size;
        let (id, last) = (partial.id, partial.left == 0);
        let fin = partial.fin && last;
        if !last {
            self.partial = Some(partial);
        }
        Some(Frame::Data { id, fin, bytes })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: Bytes) -> Result<Option<Frame>, SpdyError> {
        let mut reader = Reader { kind, payload };
        let fin = flags & FLAG_FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let (id, associated) = (reader.id()?, reader.u32()? & ID_MASK);
                let (priority, _slot) = (reader.u8()? >> 5, reader.u8()?);
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                let headers = self.headers(&reader.payload)?;
                Frame::SynStream { id, associated, priority, fin, unidirectional, headers }
            }
            SYN_REPLY => Frame::SynReply { id: reader.id()?, fin, headers: self.headers(&reader.payload)? },
            HEADERS => Frame::Headers { id: reader.id()?, fin, headers: self.headers(&reader.payload)? },
            RST_STREAM => Frame::Rst { id: reader.id()?, status: reader.u32()? },
            PING => Frame::Ping { id: reader.u32()? },
            GOAWAY => Frame::GoAway { last: reader.u32()? & ID_MASK, status: reader.u32()? },
            WINDOW_UPDATE => {
                Frame::WindowUpdate { id: reader.u32()? & ID_MASK, delta: reader.u32()? & ID_MASK }
            }
            SETTINGS => {
                let count = reader.u32()? as usize;
                if count > reader.payload.len() / 8 {
                    return Err(reader.malformed("more settings than bytes"));
                }
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    let word = reader.u32()?;
                    entries.push(((word >> 24) as u8, word & 0x00ff_ffff, reader.u32()?));
                }
                Frame::Settings { entries }
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }

    /// Inflates one header block. The compression state spans the connection.
    fn headers(&mut self, mut input: &[u8]) -> Result<Headers, SpdyError> {
        let fail = |problem| SpdyError::Headers { problem };
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() >= MAX_HEADER_BYTES {
                return Err(fail("too long when inflated"));
            }
            out.reserve(1024);
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            let result = self.inflate.decompress_vec(input, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
            match result {
                Ok(Status::StreamEnd) => return Err(fail("the compressed stream ended")),
                Ok(_) if used == 0 && out.len() == before_out => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| fail("another dictionary is needed"))?;
                }
                Err(_) => return Err(fail("they do not inflate")),
            }
        }
        if !input.is_empty() {
            return Err(fail("bytes are left over"));
        }
        parse_headers(&out).map_err(fail)
    }
}

/// Reads a control frame's fields.
struct Reader {
    kind: u16,
    payload: Bytes,
}

impl Reader {
    fn malformed(&self, problem: &'static str) -> SpdyError {
        SpdyError::Malformed { kind: self.kind, problem }
    }

    fn u8(&mut self) -> Result<u8, SpdyError> {
        self.payload.try_get_u8().map_err(|_| self.malformed("too short"))
    }

    fn u32(&mut self) -> Result<u32, SpdyError> {
        self.payload.try_get_u32().map_err(|_| self.malformed("too short"))
    }

    /// A stream's number, which is never 0.
    fn id(&mut self) -> Result<u32, SpdyError> {
        match self.u32()? & ID_MASK {
            0 => Err(self.malformed("stream 0")),
            id => Ok(id),
        }
    }
}

fn parse_headers(mut block: &[u8]) -> Result<Headers, &'static str> {
    let count = block.try_get_u32().map_err(|_| "no count")? as usize;
    if count > MAX_HEADERS {
        return Err("too many");
    }
    let mut text = || -> Result<String, &'static str> {
        let length = block.try_get_u32().map_err(|_| "cut short")? as usize;
        let (text, rest) = block.split_at_checked(length).ok_or("cut short")?;
        block = rest;
        String::from_utf8(text.to_vec()).map_err(|_| "not UTF-8")
    };
    let mut headers = Headers::with_capacity(count);
    for _ in 0..count {
        let (name, values) = (text()?.to_ascii_lowercase(), text()?);
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Ok(headers)
}

/// Turns frames into bytes.
#[derive(Debug)]
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&DICTIONARY).expect("a new compressor takes a dictionary");
        Encoder { deflate }
    }
}

impl Encoder {
    /// At the start of a connection.
    pub fn new() -> Self {
        Encoder::default()
    }

    /// Appends a frame's bytes to `out`.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        let flag = |fin: &bool| if *fin { FLAG_FIN } else { 0 };
        match frame {
            Frame::Data { id, fin, bytes } => {
                let length = u32::try_from(bytes.len()).ok().filter(|length| *length < 1 << 24);
                let problem = "longer than a frame can be";
                let length = length.ok_or(SpdyError::Malformed { kind: 0, problem })?;
                out.reserve(8 + bytes.len());
                out.put_u32(id & ID_MASK);
                out.put_u32(u32::from(flag(fin)) << 24 | length);
                out.put_slice(bytes);
            }
            Frame::SynStream { id, associated, priority, fin, unidirectional, headers } => {
                let flags = flag(fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                let mut payload = BytesMut::new();
                payload.put_u32(id & ID_MASK);
                payload.put_u32(associated & ID_MASK);
                payload.put_u8(priority << 5);
                payload.put_u8(0);
                self.headers(headers, &mut payload)?;
                control(SYN_STREAM, flags, &payload, out)?;
            }
            Frame::SynReply { id, fin, headers } => {
                self.with_headers(SYN_REPLY, *id, flag(fin), headers, out)?
            }
            Frame::Headers { id, fin, headers } => {
                self.with_headers(HEADERS, *id, flag(fin), headers, out)?
            }
            Frame::Rst { id, status } => words(RST_STREAM, &[*id, *status], out)?,
            Frame::Ping { id } => words(PING, &[*id], out)?,
            Frame::GoAway { last, status } => words(GOAWAY, &[*last, *status], out)?,
            Frame::WindowUpdate { id, delta } => words(WINDOW_UPDATE, &[*id, *delta], out)?,
            Frame::Settings { entries } => {
                let mut list = vec![u32::try_from(entries.len()).unwrap_or(u32::MAX)];
                for (flags, id, value) in entries {
                    list.extend([u32::from(*flags) << 24 | (id & 0x00ff_ffff), *value]);
                }
                words(SETTINGS, &list, out)?;
            }
        }
        Ok(())
    }

    fn with_headers(
        &mut self,
        kind: u16,
        id: u32,
        flags: u8,
        headers: &Headers,
        out: &mut BytesMut,
    ) -> Result<(), SpdyError> {
        let mut payload = BytesMut::new();
        payload.put_u32(id & ID_MASK);
        self.headers(headers, &mut payload)?;
        control(kind, flags, &payload, out)
    }

    fn headers(&mut self, headers: &Headers, out: &mut BytesMut) -> Result<(), SpdyError> {
        let mut joined: Vec<(&str, String)> = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            match joined.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.push('\0');
                    values.push_str(value);
                }
                None => joined.push((name, value.clone())),
            }
        }
        let mut block = Vec::new();
        block.put_u32(length(joined.len())?);
        for (name, values) in &joined {
            for text in [&name.to_ascii_lowercase(), values] {
                block.put_u32(length(text.len())?);
                block.put_slice(text.as_bytes());
            }
        }
        if block.len() > MAX_HEADER_BYTES {
            return Err(SpdyError::Headers { problem: "too long" });
        }
        let mut packed = Vec::with_capacity(block.len() + 64);
        let mut input = &block[..];
        loop {
            packed.reserve(256);
            let (before_in, before_out) = (self.deflate.total_in(), packed.len());
            self.deflate
                .compress_vec(input, &mut packed, FlushCompress::Sync)
                .map_err(|_| SpdyError::Headers { problem: "they do not deflate" })?;
            let used = usize::try_from(self.deflate.total_in() - before_in).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
            // Room was left over: everything is flushed.
            if input.is_empty() && packed.len() < packed.capacity() || packed.len() == before_out {
                break;
            }
        }
        out.put_slice(&packed);
        Ok(())
    }
}

fn length(of: usize) -> Result<u32, SpdyError> {
    u32::try_from(of).map_err(|_| SpdyError::Headers { problem: "too long" })
}

fn words(kind: u16, list: &[u32], out: &mut BytesMut) -> Result<(), SpdyError> {
    let mut payload = BytesMut::with_capacity(list.len() * 4);
    for word in list {
        payload.put_u32(*word);
    }
    control(kind, 0, &payload, out)
}

fn control(kind: u16, flags: u8, payload: &[u8], out: &mut BytesMut) -> Result<(), SpdyError> {
    if payload.len() > MAX_CONTROL_BYTES {
        return Err(SpdyError::TooLarge { bytes: payload.len() });
    }
    out.reserve(8 + payload.len());
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length(payload.len())?);
    out.put_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames with pieces of data joined again, so that cuts in the bytes do not show.
    fn decode(chunks: &[&[u8]]) -> (Vec<Frame>, Option<SpdyError>) {
        let (mut decoder, mut frames) = (Decoder::new(), Vec::<Frame>::new());
        for chunk in chunks {
            decoder.push(chunk);
            loop {
                match decoder.next() {
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                    Ok(Some(Frame::Data { id, fin, bytes })) => match frames.last_mut() {
                        Some(Frame::Data { id: same, fin: end, bytes: earlier }) if *same == id && !*end => {
                            *earlier = [earlier.clone(), bytes].concat().into();
                            *end = fin;
                        }
                        _ => frames.push(Frame::Data { id, fin, bytes }),
                    },
                    Ok(Some(frame)) => frames.push(frame),
                }
            }
        }
        (frames, None)
    }

    fn encode(frames: &[Frame]) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        for frame in frames {
            encoder.encode(frame, &mut out).expect("encodes");
        }
        out.to_vec()
    }

    fn any_headers() -> impl Strategy<Value = Headers> {
        proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..8).prop_map(|mut headers| {
            // Values of one name travel together.
            headers.sort();
            headers
        })
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = || 1..=ID_MASK;
        prop_oneof![
            (id(), 0..=ID_MASK, 0u8..8, any::<bool>(), any::<bool>(), any_headers()).prop_map(
                |(id, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                    id,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers
                }
            ),
            (id(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id(), any::<u32>()).prop_map(|(id, status)| Frame::Rst { id, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (0..=ID_MASK, any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (0..=ID_MASK, 0..=ID_MASK).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            proptest::collection::vec((any::<u8>(), 0u32..1 << 24, any::<u32>()), 0..5)
                .prop_map(|entries| Frame::Settings { entries }),
            // The end of every data frame is marked, or two could be told from one by nothing.
            (id(), proptest::collection::vec(any::<u8>(), 0..70_000)).prop_map(|(id, bytes)| Frame::Data {
                id,
                fin: true,
                bytes: bytes.into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cuts(frames in proptest::collection::vec(any_frame(), 1..6),
                                   cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let bytes = encode(&frames);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks), (frames, None));
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            decode(&[&bytes]);
        }

        #[test]
        fn damaged_frames_do_not_panic(frames in proptest::collection::vec(any_frame(), 1..4),
                                       at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = encode(&frames);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            decode(&[&bytes]);
        }
    }

    #[test]
    fn limits() {
        let cases: &[(&str, Vec<u8>, SpdyError)] = &[
            ("version", vec![0x80, 2, 0, 6, 0, 0, 0, 4], SpdyError::Version { version: 2 }),
            ("size", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::TooLarge { bytes: 0xff_ffff }),
            (
                "short",
                vec![0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1],
                SpdyError::Malformed { kind: 3, problem: "too short" },
            ),
            (
                "zero",
                vec![0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0],
                SpdyError::Malformed { kind: 3, problem: "stream 0" },
            ),
            ("data of 0", vec![0; 8], SpdyError::Malformed { kind: 0, problem: "data of stream 0" }),
            (
                "settings",
                vec![0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
                SpdyError::Malformed { kind: 4, problem: "more settings than bytes" },
            ),
            (
                "headers",
                vec![0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1],
                SpdyError::Headers { problem: "no count" },
            ),
        ];
        for (name, bytes, expect) in cases {
            assert_eq!(decode(&[bytes]).1.as_ref(), Some(expect), "{name}");
        }
    }

    #[test]
    fn a_header_bomb_is_refused() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).expect("taken");
        let zeros = vec![0; 4 << 20];
        let mut packed = Vec::with_capacity(1 << 20);
        deflate.compress_vec(&zeros, &mut packed, FlushCompress::Sync).expect("packs");
        let mut payload = BytesMut::new();
        payload.put_u32(1);
        payload.put_slice(&packed);
        let mut out = BytesMut::new();
        control(SYN_REPLY, 0, &payload, &mut out).expect("fits");
        let (frames, error) = decode(&[&out]);
        assert!(frames.is_empty());
        assert_eq!(error, Some(SpdyError::Headers { problem: "too long when inflated" }));
    }

    #[test]
    fn unknown_kinds_are_skipped() {
        let mut bytes = vec![0x80, 3, 0x12, 0x34, 0, 0, 0, 2, 9, 9];
        bytes.extend(encode(&[Frame::Ping { id: 7 }]));
        assert_eq!(decode(&[&bytes]), (vec![Frame::Ping { id: 7 }], None));
    }
}

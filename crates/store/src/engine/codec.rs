//! How changes are laid out in files: frames with a checksum, records with variable-length numbers.
//! Pure: bytes in, values out. Must not know files beyond their numbers and offsets.
//!
//! A frame is `magic u32, length u32, checksum u32, durable u64, time i64, count u32`, little-endian,
//! then `count` records. `length` counts what follows it but the checksum. The checksum covers that
//! too, and the segment's number and the frame's offset, so that a frame is only valid in its place.
//! `durable` is the offset up to which the segment was known to be on disk when the frame was written:
//! a damaged frame below it was lost by the disk, one above it was merely never finished.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Change, Loaded};
use crate::{Attrs, Draft, Interner, Key, Object};

/// Bytes before a frame's records.
pub(crate) const FRAME_HEAD: usize = 32;
/// Largest frame, in bytes: far above the largest request the API server takes.
pub(crate) const FRAME_MAX: usize = 256 << 20;

const FRAME_MAGIC: [u8; 4] = *b"nvFR";

const CREATED: u8 = 1;
const UPDATED: u8 = 2;
const MOVED: u8 = 3;
const DELETED: u8 = 4;

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Offset in it, in bytes.
    pub(crate) offset: u64,
}

/// Builds one frame.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    buffer: Vec<u8>,
    count: u32,
}

impl FrameWriter {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that the frame has so far.
    pub(crate) fn size(&self) -> usize {
        self.buffer.len()
    }

    fn start(&mut self) -> &mut Vec<u8> {
        if self.count == 0 {
            self.buffer.clear();
            self.buffer.resize(FRAME_HEAD, 0);
        }
        self.count += 1;
        &mut self.buffer
    }

    pub(crate) fn change(&mut self, change: &Change, indexer_version: u32) {
        match change {
            Change::Put { object, created } => {
                let kind = if *created { CREATED } else { UPDATED };
                put(self.start(), kind, object, indexer_version);
            }
            Change::Delete { key, revision } => {
                let buffer = self.start();
                buffer.push(DELETED);
                number(buffer, *revision);
                write_key(buffer, key);
            }
        }
    }

    pub(crate) fn moved(&mut self, object: &Object, indexer_version: u32) {
        put(self.start(), MOVED, object, indexer_version);
    }

    /// The finished frame; the writer is empty again afterwards, at the next change.
    pub(crate) fn finish(&mut self, at: Position, durable: u64, time_ms: i64) -> &[u8] {
        if self.count == 0 {
            self.buffer.clear();
            self.buffer.resize(FRAME_HEAD, 0);
        }
        let length = (self.buffer.len() - 12) as u32;
        self.buffer[..4].copy_from_slice(&FRAME_MAGIC);
        self.buffer[4..8].copy_from_slice(&length.to_le_bytes());
        self.buffer[12..20].copy_from_slice(&durable.to_le_bytes());
        self.buffer[20..28].copy_from_slice(&time_ms.to_le_bytes());
        self.buffer[28..32].copy_from_slice(&self.count.to_le_bytes());
        let sum = checksum(at, length, &self.buffer[12..]);
        self.buffer[8..12].copy_from_slice(&sum.to_le_bytes());
        self.count = 0;
        &self.buffer
    }

    /// Lets a buffer go that one large batch has blown up.
    pub(crate) fn relax(&mut self) {
        const KEEP: usize = 1 << 20;
        self.count = 0;
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
    }
}

fn checksum(at: Position, length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.segment.to_le_bytes());
    hasher.update(&at.offset.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn number(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

fn text(buffer: &mut Vec<u8>, bytes: &[u8]) {
    number(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

fn write_key(buffer: &mut Vec<u8>, key: &Key) {
    for part in [&key.resource, &key.namespace, &key.name] {
        text(buffer, part.as_bytes());
    }
}

fn put(buffer: &mut Vec<u8>, kind: u8, object: &Object, indexer_version: u32) {
    buffer.push(kind);
    number(buffer, object.revision);
    write_key(buffer, &object.key);
    body(buffer, object.revision_at, indexer_version, &object.attrs, &object.json);
}

fn body(buffer: &mut Vec<u8>, revision_at: u32, indexer_version: u32, attrs: &Attrs, json: &[u8]) {
    number(buffer, u64::from(revision_at));
    number(buffer, u64::from(indexer_version));
    for pairs in [&attrs.labels, &attrs.fields] {
        number(buffer, pairs.len() as u64);
        for (name, value) in pairs {
            text(buffer, name.as_bytes());
            text(buffer, value.as_bytes());
        }
    }
    text(buffer, attrs.uid.as_bytes());
    number(buffer, attrs.owners.len() as u64);
    for owner in &attrs.owners {
        text(buffer, owner.as_bytes());
    }
    text(buffer, json);
}

/// First byte of a value in etcd; another layout would begin with another one.
const VALUE_LAYOUT: u8 = 1;

/// An object as a value of its own: without key and revision, which etcd has.
pub(crate) fn encode_value(draft: &Draft, attrs: &Attrs, indexer_version: u32) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(draft.json.len() + 512);
    buffer.push(VALUE_LAYOUT);
    body(&mut buffer, draft.revision_at as u32, indexer_version, attrs, &draft.json);
    buffer
}

/// Reads what [`encode_value`] wrote; `None` if this is something else.
pub(crate) fn decode_value(value: &[u8], interner: &mut Interner) -> Option<(Draft, Attrs, u32)> {
    let (&VALUE_LAYOUT, rest) = value.split_first()? else { return None };
    let body = Reader(rest).body(interner).ok()?;
    let draft = Draft { json: body.json.to_vec(), revision_at: body.revision_at as usize };
    Some((draft, body.attrs, body.indexer_version))
}

struct Body<'a> {
    revision_at: u32,
    indexer_version: u32,
    attrs: Attrs,
    json: &'a [u8],
}

/// A frame whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Offset up to which the segment was on disk before this frame.
    pub(crate) durable: u64,
    /// When it was written.
    pub(crate) time_ms: i64,
    /// Number of records.
    pub(crate) count: u32,
    /// Bytes of the whole frame.
    pub(crate) size: usize,
    records: &'a [u8],
}

/// Reads the frame at the start of `bytes`, which stand at `at`. `None` if it is not whole.
pub(crate) fn read_frame(bytes: &[u8], at: Position) -> Option<Frame<'_>> {
    let length = frame_length(bytes)?;
    let body = bytes.get(12..12 + length)?;
    let sum = u32::from_le_bytes(array(bytes, 8)?);
    if checksum(at, length as u32, body) != sum {
        return None;
    }
    Some(Frame {
        durable: u64::from_le_bytes(array(body, 0)?),
        time_ms: i64::from_le_bytes(array(body, 8)?),
        count: u32::from_le_bytes(array(body, 16)?),
        size: 12 + length,
        records: body.get(20..)?,
    })
}

/// The length that the frame at the start of `bytes` claims, if it looks like a frame at all.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    if bytes.get(..4)? != FRAME_MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(array(bytes, 4)?) as usize;
    (FRAME_HEAD - 12..=FRAME_MAX).contains(&length).then_some(length)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// True if some whole frame after the damaged one at `offset` proves that this one had been on disk.
pub(crate) fn was_durable(segment_bytes: &[u8], segment: u64, offset: u64) -> bool {
    let start = offset as usize + 1;
    let rest = segment_bytes.get(start..).unwrap_or_default();
    let candidates = rest.windows(4).enumerate().filter(|(_, window)| *window == FRAME_MAGIC);
    for (at, _) in candidates {
        let position = Position { segment, offset: (start + at) as u64 };
        if read_frame(&rest[at..], position).is_some_and(|frame| frame.durable > offset) {
            return true;
        }
    }
    false
}

/// What a record says, before any of it is copied.
pub(crate) struct Record<'a> {
    kind: u8,
    pub(crate) revision: u64,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    rest: Reader<'a>,
}

impl<'a> Frame<'a> {
    /// The records in order. An `Err` means that the frame is malformed though its checksum holds.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<Record<'a>, Malformed>> + use<'a> {
        let mut reader = Reader(self.records);
        let mut left = self.count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let record = reader.record();
            if record.is_err() {
                left = 0;
            }
            Some(record)
        })
    }
}

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// A count of things that take at least a byte each.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if count <= self.0.len() { Ok(count) } else { Err(Malformed) }
    }

    fn record(&mut self) -> Result<Record<'a>, Malformed> {
        let kind = self.byte()?;
        let revision = self.number()?;
        let (resource, namespace, name) = (self.str()?, self.str()?, self.str()?);
        let rest = *self;
        match kind {
            DELETED => {}
            CREATED | UPDATED | MOVED => self.skip_put()?,
            _ => return Err(Malformed),
        }
        Ok(Record { kind, revision, resource, namespace, name, rest })
    }

    fn skip_put(&mut self) -> Result<(), Malformed> {
        self.number()?;
        self.number()?;
        for _ in 0..2 {
            for _ in 0..self.count()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        self.bytes()?;
        for _ in 0..self.count()? {
            self.bytes()?;
        }
        self.bytes()?;
        Ok(())
    }

    fn body(&mut self, interner: &mut Interner) -> Result<Body<'a>, Malformed> {
        let revision_at = u32::try_from(self.number()?).map_err(|_| Malformed)?;
        let indexer_version = u32::try_from(self.number()?).map_err(|_| Malformed)?;
        let labels = self.pairs(interner)?;
        let fields = self.pairs(interner)?;
        let uid = Arc::from(self.str()?);
        let count = self.count()?;
        let mut owners = Vec::with_capacity(count);
        for _ in 0..count {
            owners.push(interner.str(self.str()?));
        }
        let attrs = Attrs { labels, fields, uid, owners: owners.into() };
        Ok(Body { revision_at, indexer_version, attrs, json: self.bytes()? })
    }

    fn pairs(&mut self, interner: &mut Interner) -> Result<crate::Pairs, Malformed> {
        let count = self.count()?;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            pairs.push((interner.str(self.str()?), interner.str(self.str()?)));
        }
        Ok(pairs.into())
    }
}

impl Record<'_> {
    /// The key, with its repeated parts shared.
    pub(crate) fn key(&self, interner: &mut Interner) -> Key {
        Key {
            resource: interner.str(self.resource),
            namespace: interner.str(self.namespace),
            name: Arc::from(self.name),
        }
    }

    /// True for a version of an object, false for a deletion.
    pub(crate) fn is_put(&self) -> bool {
        self.kind != DELETED
    }

    /// The record as the store loads it.
    pub(crate) fn load(&self, interner: &mut Interner, time_ms: i64) -> Result<Loaded, Malformed> {
        let key = self.key(interner);
        if self.kind == DELETED {
            return Ok(Loaded::Delete { key, revision: self.revision, time_ms });
        }
        let mut rest = self.rest;
        let Body { revision_at, indexer_version, mut attrs, json } = rest.body(interner)?;
        for (_, value) in attrs.fields.iter_mut().filter(|(_, value)| **value == *key.name) {
            *value = Arc::clone(&key.name);
        }
        let json = Bytes::copy_from_slice(json);
        Ok(Loaded::Put {
            object: Object::from_parts(key, self.revision, json, revision_at, attrs),
            indexer_version,
            created: self.kind == CREATED,
            moved: self.kind == MOVED,
            time_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, revision: u64) -> Object {
        let draft = Draft { json: br#"{"rv":""}"#.to_vec(), revision_at: 7 };
        let pair = |a: &str, b: &str| (Arc::from(a), Arc::from(b));
        let attrs = Attrs {
            labels: [pair("app", "web"), pair("tier", "")].into(),
            fields: [pair("metadata.name", name)].into(),
            uid: Arc::from("u-1"),
            owners: [Arc::from("o-1")].into(),
        };
        Object::new(Key::new("apps/deployments", "ns", name), revision, &draft, attrs)
    }

    const AT: Position = Position { segment: 3, offset: 64 };

    fn frame() -> Vec<u8> {
        let mut writer = FrameWriter::default();
        let created = Change::Put { object: Arc::new(object("a", 300)), created: true };
        writer.change(&created, 7);
        writer.moved(&object("b", 2), 7);
        writer.change(&Change::Delete { key: Key::new("pods", "", "c"), revision: u64::MAX }, 7);
        writer.finish(AT, 64, -5).to_vec()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = frame();
        let frame = read_frame(&bytes, AT).unwrap();
        assert_eq!((frame.size, frame.count, frame.time_ms, frame.durable), (bytes.len(), 3, -5, 64));
        let mut interner = Interner::default();
        let loaded: Vec<_> =
            frame.records().map(|record| record.unwrap().load(&mut interner, 1).unwrap()).collect();
        let expect = object("a", 300);
        match &loaded[0] {
            Loaded::Put { object, indexer_version: 7, created: true, moved: false, .. } => {
                assert_eq!((&object.key, &object.attrs), (&expect.key, &expect.attrs));
                assert_eq!((&object.json, object.revision), (&expect.json, 300));
                assert_eq!(object.revision_at, 7);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(&loaded[1], Loaded::Put { moved: true, .. }));
        assert!(matches!(&loaded[2], Loaded::Delete { revision: u64::MAX, .. }));
    }

    #[test]
    fn any_flipped_bit_or_cut_is_noticed() {
        let bytes = frame();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(read_frame(&bad, AT).is_none(), "flip at {at}");
            assert!(read_frame(&bytes[..at], AT).is_none(), "cut at {at}");
        }
        assert!(read_frame(&bytes, Position { offset: 65, ..AT }).is_none());
        assert!(read_frame(&bytes, Position { segment: 4, ..AT }).is_none());
    }

    #[test]
    fn a_later_frame_tells_damage_from_a_torn_tail() {
        let mut file = vec![0u8; 64];
        file.extend(frame());
        let second = Position { segment: 3, offset: file.len() as u64 };
        for (durable, expect) in [(second.offset, true), (64, false)] {
            let mut file = file.clone();
            let mut writer = FrameWriter::default();
            writer.moved(&object("d", 9), 0);
            file.extend_from_slice(writer.finish(second, durable, 0));
            file[100] ^= 1;
            assert_eq!(was_durable(&file, 3, 64), expect, "durable {durable}");
        }
    }
}

//! The default engine: a journal in numbered files. Must not know conditions, watches or indexes.
//!
//! All current objects are in memory anyway, so that the disk is only ever read on load: appending to
//! a log is all that a commit needs, one write and one `fdatasync` per batch. A file is let go from the
//! oldest on: what is still current in it is written again at the end, the rest is dropped with it.
//! Whole files go, in order, so that the files that are left hold every change since the oldest began,
//! and a restart can serve watches from there.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::codec::{FRAME_HEAD, FRAME_MAX, FrameWriter, Position, read_frame, was_durable};
use crate::engine::segment::{self, HEADER, Header, failed};
use crate::engine::{Change, Journal, Live, LoadEnd, Loaded};
use crate::{EngineError, Interner, Object};

/// What the journal is about to do to a file; see [`DiskOptions::fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Write a batch.
    Write,
    /// Wait for the disk.
    Sync,
    /// Begin a file.
    Create,
    /// Remove a file.
    Remove,
}

/// Called before each operation; an error stands in for the disk's, and a delay for a slow disk.
pub type Fault = Arc<dyn Fn(DiskOp) -> io::Result<()> + Send + Sync>;

/// How the disk journal is kept.
#[derive(Clone)]
pub struct DiskOptions {
    /// Its directory; created if absent.
    pub dir: PathBuf,
    /// Size at which a file is full, in bytes. Housekeeping goes by whole files.
    pub segment_bytes: u64,
    /// Superseded data that may always stay, in bytes; beyond it, as much as there is current data.
    pub garbage_bytes: u64,
    /// Simulates a bad disk, in tests.
    pub fault: Option<Fault>,
}

impl DiskOptions {
    /// Files of 8 MiB, 16 MiB of superseded data.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 8 << 20, garbage_bytes: 16 << 20, fault: None }
    }
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Bytes that count.
    length: u64,
}

/// A pass over the oldest segment that writes what is current again.
struct Pass {
    file: File,
    offset: u64,
    moved: u64,
}

/// The disk journal.
pub struct Disk {
    options: DiskOptions,
    _lock: File,
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    file: Option<File>,
    /// Bytes of the last segment known to be on disk.
    durable: u64,
    revision: u64,
    indexer_version: u32,
    frame: FrameWriter,
    moving: FrameWriter,
    /// The last write failed: what follows `durable` is in doubt.
    failed: bool,
    pass: Option<Pass>,
    /// Passes in a row that freed next to nothing.
    fruitless: usize,
    /// Bytes to append before the next pass may start.
    rest: u64,
}

/// The directory holds every secret of the cluster.
const DIR_MODE: u32 = 0o700;
/// Bytes of an old file that one step of housekeeping goes through, roughly.
const STEP_BYTES: u64 = 256 << 10;

impl Disk {
    /// Locks the directory. Nothing is read until [`Journal::load`].
    pub fn open(options: DiskOptions) -> Result<Self, EngineError> {
        let create = fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(&options.dir);
        create.map_err(failed("create", &options.dir))?;
        let lock = lock(&options.dir)?;
        Ok(Self {
            options,
            _lock: lock,
            segments: VecDeque::new(),
            file: None,
            durable: HEADER,
            revision: 0,
            indexer_version: 0,
            frame: FrameWriter::default(),
            moving: FrameWriter::default(),
            failed: false,
            pass: None,
            fruitless: 0,
            rest: 0,
        })
    }

    /// A journal in an empty directory that starts after `revision`.
    pub(crate) fn create(options: DiskOptions, revision: u64) -> Result<Self, EngineError> {
        let mut disk = Self::open(options)?;
        let dir = &disk.options.dir;
        if !segment::numbers(dir)?.is_empty() {
            return Err(EngineError::NotEmpty(dir.clone()));
        }
        disk.revision = revision;
        disk.begin(0)?;
        Ok(disk)
    }

    /// Writes a version that is not a change. Durable after [`Disk::flush`].
    pub(crate) fn carry(&mut self, object: &Object, indexer_version: u32) -> Result<(), EngineError> {
        self.moving.moved(object, indexer_version);
        if self.moving.size() as u64 >= STEP_BYTES { self.write_moved(0) } else { Ok(()) }
    }

    /// Waits until everything written is on disk.
    pub(crate) fn flush(&mut self) -> Result<(), EngineError> {
        self.write_moved(0)?;
        self.sync_rest()
    }

    fn sync_rest(&mut self) -> Result<(), EngineError> {
        if self.length() > self.durable {
            self.sync()?;
        }
        Ok(())
    }

    fn fault(&self, op: DiskOp) -> io::Result<()> {
        self.options.fault.as_ref().map_or(Ok(()), |fault| fault(op))
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.options.dir, self.segments.back().map_or(0, |last| last.number))
    }

    fn length(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.length)
    }

    /// Begins a new segment after the last one, of which `previous_length` bytes count.
    fn begin(&mut self, previous_length: u64) -> Result<(), EngineError> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let dir = self.options.dir.clone();
        self.fault(DiskOp::Create).map_err(failed("create a file in", &dir))?;
        let header = Header { number, base_revision: self.revision, previous_length };
        self.file = Some(segment::create(&dir, header)?);
        if let Some(last) = self.segments.back_mut() {
            last.length = previous_length;
        }
        self.segments.push_back(Segment { number, length: HEADER });
        self.durable = HEADER;
        Ok(())
    }

    /// Makes room for a frame: begins a new segment if this one is full or in doubt.
    fn make_room(&mut self, size: u64) -> Result<(), EngineError> {
        if self.failed {
            self.pass = None;
            self.begin(self.durable)?;
            self.failed = false;
        }
        if self.length() > HEADER && self.length() + size > self.options.segment_bytes {
            self.sync_rest()?;
            self.begin(self.length())?;
        }
        Ok(())
    }

    /// Writes a frame at the end, without waiting for the disk.
    fn write(&mut self, moved: bool, time_ms: i64) -> Result<(), EngineError> {
        let size = if moved { self.moving.size() } else { self.frame.size() };
        if size > FRAME_MAX {
            self.frame.relax();
            return Err(EngineError::TooLarge { size, limit: FRAME_MAX });
        }
        self.make_room(size as u64)?;
        let at =
            Position { segment: self.segments.back().map_or(0, |last| last.number), offset: self.length() };
        let writer = if moved { &mut self.moving } else { &mut self.frame };
        let bytes = writer.finish(at, self.durable, time_ms);
        let fault = self.options.fault.as_ref().map_or(Ok(()), |fault| fault(DiskOp::Write));
        let file = self.file.as_ref().expect("a journal that is written to has been loaded");
        let written = fault.and_then(|()| file.write_all_at(bytes, at.offset));
        let size = bytes.len() as u64;
        writer.relax();
        if let Err(source) = written {
            return Err(self.doubt("write", source));
        }
        self.segments.back_mut().expect("make_room leaves a segment").length += size;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        let file = self.file.as_ref().expect("a journal that is written to has been loaded");
        match self.fault(DiskOp::Sync).and_then(|()| file.sync_data()) {
            Ok(()) => {
                self.durable = self.length();
                Ok(())
            }
            Err(source) => Err(self.doubt("sync", source)),
        }
    }

    /// Takes back what may or may not have been written. The next write begins a new segment, whose
    /// header says how much of this one counts: `fdatasync` is not to be trusted after a failure.
    fn doubt(&mut self, what: &'static str, source: io::Error) -> EngineError {
        let path = self.path();
        self.failed = true;
        self.pass = None;
        if let Some(last) = self.segments.back_mut() {
            last.length = self.durable;
        }
        if let Some(file) = &self.file {
            let cut = file.set_len(self.durable).and_then(|()| file.sync_all());
            if let Err(error) = cut {
                tracing::warn!(%error, path = %path.display(), "store: could not take back a failed write");
            }
        }
        EngineError::Io { what, path, source }
    }

    fn write_moved(&mut self, time_ms: i64) -> Result<(), EngineError> {
        if self.moving.is_empty() {
            return Ok(());
        }
        self.write(true, time_ms)
    }

    fn total(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Starts a pass over the oldest segment if there is too much superseded data.
    fn start_pass(&mut self, live_bytes: u64) -> Result<bool, EngineError> {
        let allowed = live_bytes + live_bytes.max(self.options.garbage_bytes);
        if self.segments.len() < 2 || self.total() <= allowed || self.rest > 0 || self.failed {
            return Ok(false);
        }
        let path = segment::path(&self.options.dir, self.segments[0].number);
        let file = File::open(&path).map_err(failed("open", &path))?;
        self.pass = Some(Pass { file, offset: HEADER, moved: 0 });
        Ok(true)
    }

    /// Goes through some of the oldest segment; true at its end.
    fn step(&mut self, pass: &mut Pass, live: &Live<'_>, time_ms: i64) -> Result<bool, EngineError> {
        let (number, end) = (self.segments[0].number, self.segments[0].length);
        let path = segment::path(&self.options.dir, number);
        let stop = pass.offset + STEP_BYTES;
        let mut interner = Interner::default();
        while pass.offset < end.min(stop) {
            let corrupt = |reason| EngineError::Corrupt { path: path.clone(), offset: pass.offset, reason };
            let mut head = [0u8; FRAME_HEAD];
            pass.file.read_exact_at(&mut head, pass.offset).map_err(failed("read", &path))?;
            let size = 12 + u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as u64;
            if pass.offset + size > end {
                return Err(corrupt("a frame's length is wrong"));
            }
            let mut bytes = vec![0u8; size as usize];
            pass.file.read_exact_at(&mut bytes, pass.offset).map_err(failed("read", &path))?;
            let at = Position { segment: number, offset: pass.offset };
            let frame = read_frame(&bytes, at).ok_or_else(|| corrupt("a frame's checksum does not hold"))?;
            for record in frame.records() {
                let record = record.map_err(|_| corrupt("a record is malformed"))?;
                if !record.is_put() {
                    continue;
                }
                let current = (live.current)(&record.key(&mut interner));
                if let Some(object) = current.filter(|object| object.revision == record.revision) {
                    self.moving.moved(&object, self.indexer_version);
                }
            }
            pass.offset += size;
        }
        pass.moved += self.moving.size() as u64;
        self.write_moved(time_ms)?;
        Ok(pass.offset >= end)
    }

    /// Lets the oldest segment go, once what was current in it is on disk again.
    fn end_pass(&mut self, pass: &Pass) -> Result<(), EngineError> {
        self.sync_rest()?;
        let path = segment::path(&self.options.dir, self.segments[0].number);
        self.fault(DiskOp::Remove).map_err(failed("remove", &path))?;
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        self.segments.pop_front();
        segment::sync_dir(&self.options.dir)?;
        // Live data is estimated; if the estimate is far off, passes would go round for ever.
        self.fruitless = if pass.moved * 10 > pass.offset * 9 { self.fruitless + 1 } else { 0 };
        if self.fruitless > self.segments.len() {
            self.fruitless = 0;
            self.rest = self.options.garbage_bytes;
        }
        Ok(())
    }

    /// Reads one segment and gives its changes back; the length that counts.
    fn replay(
        &mut self,
        number: u64,
        limit: Option<u64>,
        interner: &mut Interner,
        apply: &mut dyn FnMut(Loaded),
    ) -> Result<u64, EngineError> {
        let path = segment::path(&self.options.dir, number);
        let mut bytes = fs::read(&path).map_err(failed("read", &path))?;
        let corrupt = |offset, reason| EngineError::Corrupt { path: path.clone(), offset, reason };
        if let Some(limit) = limit {
            if (bytes.len() as u64) < limit {
                return Err(corrupt(bytes.len() as u64, "the end of the file is missing"));
            }
            bytes.truncate(limit as usize);
        }
        let mut offset = HEADER;
        while offset < bytes.len() as u64 {
            let at = Position { segment: number, offset };
            let Some(frame) = read_frame(&bytes[offset as usize..], at) else {
                if limit.is_some() || was_durable(&bytes, number, offset) {
                    return Err(corrupt(offset, "a frame's checksum does not hold"));
                }
                let lost = bytes.len() as u64 - offset;
                tracing::info!(path = %path.display(), lost, "store: dropped an unfinished write");
                break;
            };
            for record in frame.records() {
                let record = record.map_err(|_| corrupt(offset, "a record is malformed"))?;
                self.revision = self.revision.max(record.revision);
                let loaded = record.load(interner, frame.time_ms);
                apply(loaded.map_err(|_| corrupt(offset, "a record is malformed"))?);
            }
            offset += frame.size as u64;
        }
        Ok(offset)
    }

    fn headers(&self) -> Result<Vec<Header>, EngineError> {
        let mut headers: Vec<Header> = Vec::new();
        for number in segment::numbers(&self.options.dir)? {
            let path = segment::path(&self.options.dir, number);
            let mut bytes = [0u8; HEADER as usize];
            let file = File::open(&path).map_err(failed("open", &path))?;
            file.read_exact_at(&mut bytes, 0).map_err(failed("read the header of", &path))?;
            let header = Header::decode(&bytes, &path)?;
            let follows = headers.last().is_none_or(|before| before.number + 1 == number);
            if header.number != number || !follows {
                return Err(EngineError::Corrupt { path, offset: 0, reason: "a file before it is missing" });
            }
            headers.push(header);
        }
        Ok(headers)
    }
}

/// Locks a directory for as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, EngineError> {
    let path = dir.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EngineError::Locked(dir.into())),
        Err(TryLockError::Error(source)) => Err(EngineError::Io { what: "lock", path, source }),
    }
}

impl Journal for Disk {
    fn load(
        &mut self,
        interner: &mut Interner,
        apply: &mut dyn FnMut(Loaded),
    ) -> Result<LoadEnd, EngineError> {
        let headers = self.headers()?;
        if headers.is_empty() {
            self.begin(0)?;
            return Ok(LoadEnd::default());
        }
        for (at, header) in headers.iter().enumerate() {
            self.revision = self.revision.max(header.base_revision);
            let limit = headers.get(at + 1).map(|next| next.previous_length);
            let length = self.replay(header.number, limit, interner, apply)?;
            self.segments.push_back(Segment { number: header.number, length });
        }
        let path = self.path();
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed("open", &path))?;
        let length = self.length();
        // What was read may be in the page cache only: another crash must not lose it now that it
        // is shown to readers.
        file.set_len(length).and_then(|()| file.sync_all()).map_err(failed("sync", &path))?;
        self.durable = length;
        self.file = Some(file);
        let complete_after = headers[0].base_revision;
        Ok(LoadEnd { revision: self.revision, complete_after })
    }

    fn append(&mut self, changes: &[Change], indexer_version: u32, time_ms: i64) -> Result<(), EngineError> {
        self.indexer_version = indexer_version;
        self.frame.relax();
        for change in changes {
            self.frame.change(change, indexer_version);
        }
        let before = self.total();
        self.write(false, time_ms)?;
        self.sync()?;
        self.rest = self.rest.saturating_sub(self.total().saturating_sub(before));
        let revisions = changes.iter().map(Change::revision);
        self.revision = revisions.fold(self.revision, u64::max);
        Ok(())
    }

    fn tidy(&mut self, live: &Live<'_>, time_ms: i64) -> Result<bool, EngineError> {
        if self.pass.is_none() && !self.start_pass(live.bytes)? {
            return Ok(false);
        }
        let Some(mut pass) = self.pass.take() else { return Ok(false) };
        if self.step(&mut pass, live, time_ms)? {
            self.end_pass(&pass)?;
        } else {
            self.pass = Some(pass);
        }
        Ok(true)
    }

    fn disk_bytes(&self) -> u64 {
        self.total()
    }
}

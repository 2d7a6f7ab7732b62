//! A backup: all objects of one revision in one file, and its way back into a directory. Must not
//! know which engine it came from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::Loaded;
use crate::engine::codec::{FrameWriter, Position, read_frame};
use crate::engine::disk::{Disk, DiskOptions, lock};
use crate::engine::segment::{FILE_MODE, HEADER, Header, failed, sync_dir};
use crate::{EngineError, Interner, Object};

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The revision it was taken at.
    pub revision: u64,
    /// Number of objects.
    pub objects: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

const FRAME_BYTES: usize = 256 << 10;

/// Writes objects, each with the version of the indexer that made its attributes. The file appears under its name only once it is complete and on disk.
pub(crate) fn write_backup(
    path: &Path,
    revision: u64,
    objects: impl Iterator<Item = (Arc<Object>, u32)>,
) -> Result<BackupSummary, EngineError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let draft = PathBuf::from(name);
    let written = write_file(&draft, revision, objects);
    let summary = written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
    fs::rename(&draft, path).map_err(failed("create", path))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(dir)?;
    Ok(summary)
}

fn write_file(
    path: &Path,
    revision: u64,
    objects: impl Iterator<Item = (Arc<Object>, u32)>,
) -> Result<BackupSummary, EngineError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let file = options.open(path).map_err(failed("create", path))?;
    let mut out = BufWriter::new(file);
    let summary = write_objects(&mut out, path, revision, objects)?;
    let file = out.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("sync", path))?;
    Ok(summary)
}

/// Writes a backup anywhere; `path` is for the words of an error.
pub(crate) fn write_objects(
    mut out: impl io::Write,
    path: &Path,
    revision: u64,
    objects: impl Iterator<Item = (Arc<Object>, u32)>,
) -> Result<BackupSummary, EngineError> {
    let header = Header { number: 0, base_revision: revision, previous_length: 0 };
    out.write_all(&header.encode()).map_err(failed("write", path))?;
    let mut frame = FrameWriter::default();
    let mut summary = BackupSummary { revision, objects: 0, bytes: HEADER };
    let mut flush = |frame: &mut FrameWriter, bytes: &mut u64| {
        let at = Position { segment: 0, offset: *bytes };
        let text = frame.finish(at, *bytes, 0);
        *bytes += text.len() as u64;
        out.write_all(text).map_err(failed("write", path))
    };
    for (object, indexer_version) in objects {
        frame.moved(&object, indexer_version);
        summary.objects += 1;
        if frame.size() >= FRAME_BYTES {
            flush(&mut frame, &mut summary.bytes)?;
        }
    }
    if !frame.is_empty() {
        flush(&mut frame, &mut summary.bytes)?;
    }
    // A frame without records ends the file: one that is cut off is not a backup.
    flush(&mut frame, &mut summary.bytes)?;
    out.flush().map_err(failed("write", path))?;
    Ok(summary)
}

/// Reads a backup through; an error when anything of it is damaged or missing.
pub fn check(path: &Path) -> Result<BackupSummary, EngineError> {
    read_backup(path, |_, _| Ok(()))
}

/// Reads a backup and hands over each object with the version of the indexer that made its
/// attributes. Checks everything, the end included.
pub(crate) fn read_backup(
    path: &Path,
    mut apply: impl FnMut(Arc<Object>, u32) -> Result<(), EngineError>,
) -> Result<BackupSummary, EngineError> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).map_err(failed("open", path))?;
    let size = file.metadata().map_err(failed("read", path))?.len();
    let corrupt = |offset, reason| EngineError::Corrupt { path: path.into(), offset, reason };
    let mut head = vec![0u8; HEADER.min(size) as usize];
    file.read_exact_at(&mut head, 0).map_err(failed("read", path))?;
    let header = Header::decode(&head, path)?;
    if header.number != 0 {
        return Err(corrupt(0, "this is part of a store, not a backup"));
    }
    let mut summary = BackupSummary { revision: header.base_revision, objects: 0, bytes: HEADER };
    let mut interner = Interner::default();
    loop {
        let offset = summary.bytes;
        let mut head = [0u8; 12];
        if size < offset + 12 {
            return Err(corrupt(offset, "the end of the file is missing"));
        }
        file.read_exact_at(&mut head, offset).map_err(failed("read", path))?;
        let length = 12 + u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        if size < offset + length {
            return Err(corrupt(offset, "the end of the file is missing"));
        }
        let mut bytes = vec![0u8; length as usize];
        file.read_exact_at(&mut bytes, offset).map_err(failed("read", path))?;
        let at = Position { segment: 0, offset };
        let frame =
            read_frame(&bytes, at).ok_or_else(|| corrupt(offset, "a frame's checksum does not hold"))?;
        summary.bytes += length;
        if frame.count == 0 {
            return Ok(summary);
        }
        for record in frame.records() {
            let loaded = record.and_then(|record| record.load(&mut interner, frame.time_ms));
            match loaded.map_err(|_| corrupt(offset, "a record is malformed"))? {
                Loaded::Put { object, indexer_version, .. } => apply(Arc::new(object), indexer_version)?,
                Loaded::Delete { .. } => return Err(corrupt(offset, "a backup holds no deletions")),
            }
            summary.objects += 1;
        }
    }
}

/// How far revisions jump ahead on restore. Clients have seen revisions after the backup was taken;
/// none of them may be given out again, or a watch would resume at the wrong place.
pub const RESTORE_JUMP: u64 = 1_000_000_000;

/// Fills an empty directory from a backup. The store opened on it continues [`RESTORE_JUMP`]
/// revisions after the backup and has no history before that: every client lists anew.
///
/// The directory appears whole or not at all.
pub fn restore(backup: &Path, options: DiskOptions) -> Result<BackupSummary, EngineError> {
    // First a look at the whole file: nothing is created from a damaged one.
    let summary = check(backup)?;
    let dir = options.dir.clone();
    make_way(&dir)?;
    let draft = dir.with_extension("restoring");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(failed("remove", &draft))?;
    }
    let options = DiskOptions { dir: draft.clone(), ..options };
    let mut disk = Disk::create(options, summary.revision.saturating_add(RESTORE_JUMP))?;
    read_backup(backup, |object, version| disk.carry(&object, version))?;
    disk.flush()?;
    drop(disk);
    fs::rename(&draft, &dir).map_err(failed("create", &dir))?;
    sync_dir(dir.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(summary)
}

/// Makes sure that a directory can be replaced: it is absent, or holds nothing but a lock file.
fn make_way(dir: &Path) -> Result<(), EngineError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        if entry.map_err(failed("read", dir))?.file_name() != "lock" {
            return Err(EngineError::NotEmpty(dir.into()));
        }
    }
    let locked = lock(dir)?;
    fs::remove_file(dir.join("lock")).map_err(failed("remove the lock in", dir))?;
    drop(locked);
    Ok(())
}

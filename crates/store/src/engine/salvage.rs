//! What can still be read of a damaged directory, made into a backup. Must not change the directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::Loaded;
use crate::engine::backup::{BackupSummary, write_backup};
use crate::engine::codec::{Position, read_frame};
use crate::engine::disk::lock;
use crate::engine::segment::{self, HEADER, Header, failed};
use crate::{EngineError, Interner, Key, Object};

/// What was saved, and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// The backup that was written.
    pub backup: BackupSummary,
    /// Stretches that could not be read: file, offset and length in bytes. Changes in them are lost:
    /// objects may be missing, older than they were, or back though they had been deleted.
    pub lost: Vec<(PathBuf, u64, u64)>,
}

#[derive(Default)]
struct Saved {
    objects: BTreeMap<Key, (Arc<Object>, u32)>,
    revision: u64,
    lost: Vec<(PathBuf, u64, u64)>,
}

/// Reads everything readable in `dir` and writes it to `backup`, for [`crate::restore`].
pub fn salvage(dir: &Path, backup: &Path) -> Result<Salvage, EngineError> {
    let _lock = lock(dir)?;
    let mut saved = Saved::default();
    let mut interner = Interner::default();
    let numbers = segment::numbers(dir)?;
    for (at, number) in numbers.iter().enumerate() {
        let path = segment::path(dir, *number);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        // What follows the length that the next file tells was never acknowledged.
        let next = numbers.get(at + 1).map(|next| segment::path(dir, *next));
        let length = next.and_then(|next| header(&next)).map(|next| next.previous_length as usize);
        let length = length.unwrap_or(bytes.len()).min(bytes.len());
        saved.read(&path, *number, &bytes[..length], &mut interner);
        if let Some(header) = header(&path) {
            saved.revision = saved.revision.max(header.base_revision);
        }
    }
    let Saved { objects, revision, lost } = saved;
    let backup = write_backup(backup, revision, objects.into_values())?;
    Ok(Salvage { backup, lost })
}

fn header(path: &Path) -> Option<Header> {
    Header::decode(&fs::read(path).ok()?, path).ok()
}

impl Saved {
    fn read(&mut self, path: &Path, segment: u64, bytes: &[u8], interner: &mut Interner) {
        let mut offset = HEADER as usize;
        let mut gap: Option<usize> = None;
        while offset < bytes.len() {
            let position = Position { segment, offset: offset as u64 };
            let Some(frame) = read_frame(&bytes[offset..], position) else {
                gap.get_or_insert(offset);
                offset += 1;
                continue;
            };
            self.note(path, gap.take(), offset);
            for record in frame.records() {
                let loaded = record.and_then(|record| record.load(interner, frame.time_ms));
                match loaded {
                    Ok(loaded) => self.apply(loaded),
                    Err(_) => self.note(path, Some(offset), offset + frame.size),
                }
            }
            offset += frame.size;
        }
        self.note(path, gap, bytes.len());
    }

    fn note(&mut self, path: &Path, from: Option<usize>, to: usize) {
        if let Some(from) = from {
            self.lost.push((path.into(), from as u64, (to - from) as u64));
        }
    }

    fn apply(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Put { object, indexer_version, .. } => {
                self.revision = self.revision.max(object.revision);
                self.objects.insert(object.key.clone(), (Arc::new(object), indexer_version));
            }
            Loaded::Delete { key, revision, .. } => {
                self.revision = self.revision.max(revision);
                self.objects.remove(&key);
            }
        }
    }
}

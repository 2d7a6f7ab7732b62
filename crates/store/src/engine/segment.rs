//! One file of the disk journal: its header, its name, and how it comes into being. Must not know
//! records.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// Bytes before the first frame.
pub(crate) const HEADER: u64 = 64;
/// The file format written here.
pub(crate) const FORMAT: u32 = 1;

/// Files of the store are for their owner only: secrets are in them.
pub(crate) const FILE_MODE: u32 = 0o600;

const MAGIC: [u8; 8] = *b"NavStore";
const EXTENSION: &str = "log";

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Segments are numbered from 1, without gaps.
    pub(crate) number: u64,
    /// The highest revision used before this segment.
    pub(crate) base_revision: u64,
    /// Bytes of the segment before it that count; anything after them was never acknowledged.
    pub(crate) previous_length: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0u8; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.base_revision.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_length.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, EngineError> {
        let corrupt = |reason| EngineError::Corrupt { path: path.into(), offset: 0, reason };
        let bytes = bytes.get(..HEADER as usize).ok_or_else(|| corrupt("the header is cut off"))?;
        let word = |at: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if bytes[..8] != MAGIC {
            return Err(corrupt("this is not a store file"));
        }
        if crc32fast::hash(&bytes[..60]) != (word(56) >> 32) as u32 {
            return Err(corrupt("the header's checksum does not hold"));
        }
        let format = word(8) as u32;
        if format > FORMAT {
            return Err(EngineError::Format { path: path.into(), found: format, known: FORMAT });
        }
        Ok(Self { number: word(16), base_revision: word(24), previous_length: word(32) })
    }
}

/// The path of a segment.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{EXTENSION}"))
}

/// Numbers of the segments in a directory, ascending.
pub(crate) fn numbers(dir: &Path) -> Result<Vec<u64>, EngineError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let name = entry.map_err(failed("read", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(EXTENSION)?.strip_suffix('.'));
        numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Creates a segment whose header is on disk, under its name, when this returns.
pub(crate) fn create(dir: &Path, header: Header) -> Result<File, EngineError> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let target = path(dir, header.number);
    let draft = dir.join("next.tmp");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(FILE_MODE);
    let file = options.open(&draft).map_err(failed("create", &draft))?;
    file.write_all_at(&header.encode(), 0).map_err(failed("write", &draft))?;
    file.sync_all().map_err(failed("sync", &draft))?;
    fs::rename(&draft, &target).map_err(failed("create", &target))?;
    sync_dir(dir)?;
    Ok(file)
}

/// Makes names created or removed in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), EngineError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

/// Says what was attempted on which file.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.to_path_buf();
    move |source| EngineError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_damage_to_it_is_noticed() {
        let header = Header { number: 7, base_revision: 99, previous_length: 1234 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, Path::new("x")).unwrap(), header);
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 4;
            assert!(Header::decode(&bad, Path::new("x")).is_err(), "flip at {at}");
        }
    }
}

//! Space on disks: what a filesystem has and what a directory takes.
//!
//! Must not know whose directory it is.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The state of a filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Size, bytes.
    pub capacity_bytes: u64,
    /// Free for ordinary users, bytes.
    pub available_bytes: u64,
    /// Taken, bytes.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// The filesystem that holds `path`.
pub fn filesystem(path: &Path) -> io::Result<Filesystem> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Filesystem {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// What a directory takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Allocated blocks, bytes.
    pub bytes: u64,
    /// Inodes, hard links counted once.
    pub inodes: u64,
}

/// Sums a directory on its own filesystem without following links. What vanishes meanwhile is not counted.
/// Blocks: call it off the async threads.
pub fn taken(dir: &Path) -> Taken {
    let mut total = Taken::default();
    let mut seen = BTreeSet::new();
    let Ok(top) = dir.symlink_metadata() else { return total };
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
            continue;
        }
        total.bytes += meta.blocks() * 512;
        total.inodes += 1;
        if meta.is_dir() {
            stack.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_files_once() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a"), vec![1; 10_000]).expect("written");
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("linked");
        let sum = taken(dir.path());
        assert_eq!(sum.inodes, 2);
        assert!(filesystem(dir.path()).expect("known").capacity_bytes > 0);
    }
}

//! Mounts: tmpfs, bind mounts and their removal.
//!
//! Must not know what is mounted for whom.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct MountError {
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

fn fail(action: &'static str, path: &Path, source: impl Into<io::Error>) -> MountError {
    MountError { action, path: path.to_owned(), source: source.into() }
}

/// Mounts a tmpfs at `path` (made if absent); `size` in bytes, `None` = the kernel's half of memory.
/// A tmpfs already there is kept.
pub fn tmpfs(path: &Path, size: Option<u64>) -> Result<(), MountError> {
    fs::create_dir_all(path).map_err(|source| fail("make", path, source))?;
    if is_mount_point(path) {
        return Ok(());
    }
    let options = size.map_or_else(String::new, |size| format!("size={size}"));
    let options = CString::new(options).expect("digits hold no NUL");
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|source| fail("mount a tmpfs at", path, source))
}

/// Bind-mounts what an open descriptor refers to at `target`, which must exist and be of the same kind.
pub fn bind_fd(source: BorrowedFd<'_>, target: &Path) -> Result<(), MountError> {
    bind(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// Bind-mounts `source`, and what is mounted beneath it, at `target`.
pub fn bind(source: &Path, target: &Path) -> Result<(), MountError> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|source| fail("bind-mount at", target, source))
}

/// Makes later mounts beneath `path` visible to containers and back.
pub fn share(path: &Path) -> Result<(), MountError> {
    rustix::mount::mount_change(path, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(|source| fail("share", path, source))
}

/// Unmounts `path`, now or when the last user leaves. Nothing mounted is no error.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(source) => Err(fail("unmount", path, source)),
    }
}

/// True when something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> bool {
    mount_points().iter().any(|point| point == path)
}

/// Unmounts everything at or beneath `dir`, innermost first.
pub fn unmount_beneath(dir: &Path) -> Result<(), MountError> {
    let mut points: Vec<PathBuf> =
        mount_points().into_iter().filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points.iter().try_for_each(|point| unmount(point))
}

/// Every mount point of this mount namespace.
pub fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|octal| std::str::from_utf8(octal).ok());
        let code = digits.filter(|_| byte == b'\\').and_then(|octal| u8::from_str_radix(octal, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo() {
        for (input, expect) in [("/a", "/a"), ("/a\\040b", "/a b"), ("/x\\134", "/x\\"), ("/y\\9", "/y\\9")] {
            assert_eq!(unescape(input), PathBuf::from(expect));
        }
        assert!(is_mount_point(Path::new("/proc")));
    }
}

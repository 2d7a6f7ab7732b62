//! Paths given by others, resolved beneath a directory and never outside it: through the kernel (`openat2` with
//! RESOLVE_BENEATH), so that a container that changes links meanwhile cannot win a race.
//!
//! Must not know what the files are for.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Why a path could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum BeneathError {
    /// It is absolute or climbs.
    #[error("path {path:?} must be relative and must not contain '..'")]
    Shape {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {action} {path:?} beneath {root:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory that holds.
        root: PathBuf,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// An open directory that nothing resolved through it escapes.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a resolved path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else that can be bind-mounted on a file.
    Other,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Opens `path`, which we own.
    pub fn open(path: &Path) -> Result<Root, BeneathError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Root { fd, path: path.to_owned() }),
            Err(source) => Err(BeneathError::Io {
                action: "open",
                root: path.to_owned(),
                path: PathBuf::new(),
                source: source.into(),
            }),
        }
    }

    fn fail(&self, action: &'static str, path: &Path, source: rustix::io::Errno) -> BeneathError {
        BeneathError::Io { action, root: self.path.clone(), path: path.to_owned(), source: source.into() }
    }

    /// A descriptor (O_PATH) of an existing path beneath, and its kind.
    pub fn resolve(&self, path: &Path) -> Result<(OwnedFd, Kind), BeneathError> {
        let path = relative(path)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.fd, &path, flags, Mode::empty(), RESOLVE)
            .map_err(|source| self.fail("open", &path, source))?;
        let stat = rustix::fs::fstat(&fd).map_err(|source| self.fail("stat", &path, source))?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok((fd, if directory { Kind::Directory } else { Kind::Other }))
    }

    /// The descriptor of a path beneath; what is missing is made as directories with `mode`.
    pub fn resolve_or_make(&self, path: &Path, mode: u32) -> Result<(OwnedFd, Kind), BeneathError> {
        match self.resolve(path) {
            Err(BeneathError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let path = relative(path)?;
        let mut made = PathBuf::new();
        for part in path.components() {
            let parent = if made.as_os_str().is_empty() { PathBuf::from(".") } else { made.clone() };
            let (dir, _) = self.resolve(&parent)?;
            match rustix::fs::mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(mode)) {
                // The umask must not take bits away.
                Ok(()) => {
                    rustix::fs::chmodat(&dir, part.as_os_str(), Mode::from_raw_mode(mode), AtFlags::empty())
                        .map_err(|source| self.fail("set the mode of", &path, source))?
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(source) => return Err(self.fail("make", &path, source)),
            }
            made.push(part);
        }
        self.resolve(&path)
    }

    /// Opens a regular file beneath for reading.
    pub fn read(&self, path: &Path) -> Result<std::fs::File, BeneathError> {
        let path = relative(path)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat2(&self.fd, &path, flags, Mode::empty(), RESOLVE)
            .map_err(|source| self.fail("open", &path, source))?;
        Ok(std::fs::File::from(fd))
    }
}

/// The path without `.` parts; an absolute path or `..` is refused.
fn relative(path: &Path) -> Result<PathBuf, BeneathError> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return Err(BeneathError::Shape { path: path.to_owned() }),
        }
    }
    if out.as_os_str().is_empty() {
        out.push(".");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_escapes() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path();
        std::fs::create_dir(base.join("in")).expect("made");
        std::fs::write(base.join("in/file"), "x").expect("written");
        symlink("/etc", base.join("absolute")).expect("linked");
        symlink("..", base.join("up")).expect("linked");
        symlink("in", base.join("inside")).expect("linked");
        let root = Root::open(base).expect("opens");
        assert_eq!(root.resolve(Path::new("inside/file")).expect("resolves").1, Kind::Other);
        for bad in ["absolute", "absolute/passwd", "up/x", "../x", "/etc"] {
            assert!(root.resolve(Path::new(bad)).is_err(), "{bad}");
            assert!(root.resolve_or_make(Path::new(bad), 0o750).is_err(), "{bad}");
        }
        let (_, kind) = root.resolve_or_make(Path::new("inside/a/b"), 0o750).expect("made");
        assert_eq!(kind, Kind::Directory);
        assert!(base.join("in/a/b").is_dir());
    }
}

//! Parts of volumes mounted into containers: `subPath` resolved beneath the volume, whatever links it holds.
//!
//! Must not trust the volume: containers write into it while this runs.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::beneath::{Kind, Root};
use runtime::mount;

/// Why a sub-path cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It leaves the volume, or cannot be made.
    #[error(transparent)]
    Beneath(#[from] runtime::beneath::BeneathError),
    /// The bind mount failed.
    #[error(transparent)]
    Mount(#[from] mount::MountError),
    /// The place for it cannot be made.
    #[error("cannot make {path:?}: {source}")]
    Target {
        /// The place.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// Where a container's n-th mount is bound: `<pod>/volume-subpaths/<volume>/<container>/<n>`, as upstream.
pub fn target(pod_dir: &Path, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir.join("volume-subpaths").join(volume).join(container).join(index.to_string())
}

/// Binds `sub_path` of `volume` at `target` and returns the target. A missing directory is made, unless the
/// volume is read-only.
pub fn bind(volume: &Path, sub_path: &str, target: &Path, make: bool) -> Result<(), SubPathError> {
    let root = Root::open(volume)?;
    let (fd, kind) = if make {
        root.resolve_or_make(Path::new(sub_path), super::mode_of(volume))?
    } else {
        root.resolve(Path::new(sub_path))?
    };
    // A restarted container gets a fresh mount: the path may mean something else by now.
    mount::unmount(target)?;
    let fail = |source| SubPathError::Target { path: target.to_owned(), source };
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    match kind {
        Kind::Directory => {
            if target.is_file() {
                fs::remove_file(target).map_err(fail)?;
            }
            fs::create_dir_all(target).map_err(fail)?;
        }
        Kind::Other if !target.is_file() => {
            if target.is_dir() {
                fs::remove_dir(target).map_err(fail)?;
            }
            fs::write(target, b"").map_err(fail)?;
        }
        Kind::Other => {}
    }
    mount::bind_fd(std::os::fd::AsFd::as_fd(&fd), target)?;
    Ok(())
}

//! A pod's volumes on the node: made, kept current, mounted into containers, removed.
//!
//! Must not know the runtime beyond its mount message.

pub mod atomic;
pub mod local;
pub mod payload;
pub mod subpath;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::k8s::api::core::v1::{HostPathVolumeSource, PersistentVolume, Pod, Volume};

use crate::amount;
use crate::container::resources;
use crate::pods::pod::PodExt;
use payload::Sources;

/// Why a volume cannot be used; the text goes into an event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// An object it shows does not exist.
    #[error("{what} {name:?} not found")]
    Missing {
        /// `configmap`, `secret`, `persistentvolumeclaim`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A key it shows does not exist.
    #[error("references non-existent config key: {key}")]
    Key {
        /// The key.
        key: String,
    },
    /// Its content cannot be made.
    #[error("{detail}")]
    Content {
        /// Why.
        detail: String,
    },
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed: {path} is not {kind}")]
    HostPath {
        /// The path.
        path: String,
        /// What it should be.
        kind: &'static str,
    },
    /// This kind of volume is not supported.
    #[error("no volume plugin matched")]
    Unsupported,
    /// The file system refused.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] runtime::mount::MountError),
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The directory or file on the node.
    pub path: PathBuf,
    /// Never writable, whatever the container asks.
    pub read_only: bool,
}

/// Volumes by name.
pub type Volumes = BTreeMap<String, Mounted>;

/// Claims of a pod resolved to volumes, by claim name.
pub type Claims = BTreeMap<String, std::sync::Arc<PersistentVolume>>;

/// The directories of pods.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

fn fail<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { action, path: path.to_owned(), source }
}

impl Store {
    /// Pods live in `<root>/pods/<uid>`.
    pub fn new(root: &Path) -> Store {
        Store { root: root.join("pods") }
    }

    /// A pod's directory.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// Uids of pods that have a directory.
    pub fn uids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// A volume's directory, as upstream names it.
    fn dir(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        let kind = match volume {
            Volume { config_map: Some(_), .. } => "configmap",
            Volume { secret: Some(_), .. } => "secret",
            Volume { downward_api: Some(_), .. } => "downward-api",
            Volume { projected: Some(_), .. } => "projected",
            Volume { image: Some(_), .. } => "image",
            _ => "empty-dir",
        };
        self.pod_dir(pod.uid()).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
    }

    /// The directory of a volume that has one of its own beneath the pod's.
    pub fn own_dir(&self, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
        let own = volume.empty_dir.is_some() || payload::is_live(volume);
        own.then(|| self.dir(pod, volume))
    }

    /// Where the files of an image volume are mounted.
    pub fn image_dir(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        self.dir(pod, volume)
    }

    /// Makes or refreshes one volume.
    pub fn prepare(
        &self,
        sources: &Sources<'_>,
        volume: &Volume,
        claims: &Claims,
        version: &str,
    ) -> Result<Mounted, VolumeError> {
        let pod = sources.pod;
        let group = fs_group(pod);
        if let Some(payload) = payload::payload(sources, volume)? {
            let dir = self.dir(pod, volume);
            if holds_secrets(volume) {
                runtime::mount::tmpfs(&dir, None)?;
            } else if !dir.exists() {
                fs::create_dir_all(&dir).map_err(fail("make", &dir))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(fail("open", &dir))?;
            }
            atomic::write(&dir, &payload, atomic::Ownership { group }, version)
                .map_err(fail("write", &dir))?;
            return Ok(Mounted { path: dir, read_only: true });
        }
        if let Some(source) = &volume.host_path {
            check_host_path(source)?;
            return Ok(Mounted { path: PathBuf::from(&source.path), read_only: false });
        }
        if let Some(name) = claim_name(pod, volume) {
            let volume =
                claims.get(&name).ok_or(VolumeError::Missing { what: "persistentvolumeclaim", name })?;
            local::make(&self.root.with_file_name(local::DIRECTORY), volume)?;
            return persistent(pod, volume);
        }
        if volume.empty_dir.is_some() {
            return self.empty_dir(pod, volume, group);
        }
        Err(VolumeError::Unsupported)
    }

    fn empty_dir(&self, pod: &Pod, volume: &Volume, group: Option<u32>) -> Result<Mounted, VolumeError> {
        let dir = self.dir(pod, volume);
        let ready = dir.with_file_name(format!(".{}.ready", volume.name));
        let mounted = Mounted { path: dir.clone(), read_only: false };
        let source = volume.empty_dir.as_ref();
        let memory = source.and_then(|s| s.medium.as_deref()) == Some("Memory");
        if ready.exists() && (!memory || runtime::mount::is_mount_point(&dir)) {
            return Ok(mounted);
        }
        fs::create_dir_all(&dir).map_err(fail("make", &dir))?;
        if memory {
            let limit = source
                .and_then(|s| s.size_limit.as_ref())
                .map(|limit| amount::whole(&limit.0))
                .filter(|limit| *limit > 0);
            let (_, pod_limit) = resources::pod_total(pod, &BTreeMap::new(), "memory");
            let pod_limit = pod_limit.map(|milli| milli / 1000).filter(|limit| *limit > 0);
            let size = limit.into_iter().chain(pod_limit).min();
            // A tmpfs is open to all and sticky from the start.
            runtime::mount::tmpfs(&dir, size.and_then(|size| u64::try_from(size).ok()))?;
        } else {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(fail("open", &dir))?;
        }
        own(&dir, group)?;
        fs::write(&ready, b"").map_err(fail("mark", &ready))?;
        Ok(mounted)
    }

    /// Unmounts and removes a pod's volumes; its other files stay, termination messages among them.
    pub fn remove_volumes(&self, uid: &str) -> Result<(), VolumeError> {
        for sub in ["volumes", "volume-subpaths"] {
            self.remove_dir(uid, &self.pod_dir(uid).join(sub))?;
        }
        Ok(())
    }

    /// Unmounts and removes all of a pod.
    pub fn remove(&self, uid: &str) -> Result<(), VolumeError> {
        self.remove_dir(uid, &self.pod_dir(uid))
    }

    /// Unmounts and removes a directory of a pod. Anything still mounted beneath stops it: what is mounted is not ours to
    /// delete.
    fn remove_dir(&self, uid: &str, dir: &Path) -> Result<(), VolumeError> {
        if uid.is_empty() || uid.contains('/') || uid == ".." || !dir.exists() {
            return Ok(());
        }
        runtime::mount::unmount_beneath(dir)?;
        if let Some(left) = runtime::mount::mount_points().into_iter().find(|point| point.starts_with(dir)) {
            let source = io::Error::other("still mounted");
            return Err(VolumeError::Io { action: "unmount", path: left, source });
        }
        fs::remove_dir_all(dir).map_err(fail("remove", dir))
    }
}

/// Secrets and tokens never touch a disk.
fn holds_secrets(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some()
}

/// A pod's fsGroup.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec().security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Gives a directory to the pod's group, writable, and inherited by what is made in it.
fn own(dir: &Path, group: Option<u32>) -> Result<(), VolumeError> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::lchown(dir, None, Some(group)).map_err(fail("give", dir))?;
    let mode = fs::metadata(dir).map_err(fail("read", dir))?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7777 | 0o2770)).map_err(fail("open", dir))
}

/// The claim behind a volume: named, or made for the pod.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)))
}

fn persistent(pod: &Pod, volume: &PersistentVolume) -> Result<Mounted, VolumeError> {
    let spec = volume.spec.as_ref().ok_or(VolumeError::Unsupported)?;
    let path = if let Some(local) = &spec.local {
        PathBuf::from(&local.path)
    } else if let Some(host) = &spec.host_path {
        let made = HostPathVolumeSource { path: host.path.clone(), type_: host.type_.clone() };
        check_host_path(&made)?;
        PathBuf::from(&host.path)
    } else {
        return Err(VolumeError::Unsupported);
    };
    if spec.local.is_some() && !path.exists() {
        return Err(VolumeError::Missing { what: "path", name: path.to_string_lossy().into_owned() });
    }
    if spec.local.is_some() && path.is_dir() {
        own(&path, fs_group(pod))?;
    }
    Ok(Mounted { path, read_only: false })
}

fn check_host_path(source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let bad = |kind| Err(VolumeError::HostPath { path: source.path.clone(), kind });
    let kind = source.type_.as_deref().unwrap_or("");
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(path).map_err(fail("make", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(fail("open", path))?;
        }
        "FileOrCreate" if !path.exists() => {
            fs::write(path, b"").map_err(fail("make", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(fail("open", path))?;
        }
        _ => {}
    }
    let file_type = fs::metadata(path).ok().map(|meta| meta.file_type());
    match kind {
        "Directory" | "DirectoryOrCreate" if !file_type.is_some_and(|t| t.is_dir()) => bad("a directory"),
        "File" | "FileOrCreate" if !file_type.is_some_and(|t| t.is_file()) => bad("a file"),
        "Socket" if !file_type.is_some_and(|t| t.is_socket()) => bad("a socket"),
        "CharDevice" if !file_type.is_some_and(|t| t.is_char_device()) => bad("a character device"),
        "BlockDevice" if !file_type.is_some_and(|t| t.is_block_device()) => bad("a block device"),
        _ => Ok(()),
    }
}

/// The permission bits and owner of a directory, which a sub-path made in it gets.
pub fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o750, |meta| meta.mode() & 0o7777)
}

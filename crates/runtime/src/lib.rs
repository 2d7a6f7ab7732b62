//! What a node runs containers with: the CRI client, containerd's settings, cgroups, mounts and safe paths.
//!
//! Must not know the Kubernetes API: no pod, no volume kind appears here. The only home of unsafe code.

pub mod beneath;
pub mod cgroup;
pub mod containerd;
pub mod cri;
pub mod device;
pub mod disk;
pub mod events;
pub mod health;
pub mod mount;
pub mod pause;
pub mod snapshot;

pub use cri::{Cri, CriError};

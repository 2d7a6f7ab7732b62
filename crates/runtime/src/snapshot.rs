//! An image's files as a read-only mount, through containerd's snapshots: image volumes work with runtimes whose
//! CRI does not know them.
//!
//! Must not know volumes or pods; keys and paths come from the caller.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

use rustix::mount::MountFlags;
use tonic::codegen::http::uri::PathAndQuery;

use crate::cri::messages as m;
use crate::mount::MountError;
use crate::{Cri, CriError, mount};

/// Why an image cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// It is not containerd, or does not say how the image's layers are chained.
    #[error("the runtime does not tell the layers of image {image:?}")]
    NoChain {
        /// The image.
        image: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A mount that this cannot make.
    #[error("a mount of type {kind:?} cannot be made")]
    Kind {
        /// Its type.
        kind: String,
    },
}

/// containerd's `types.Mount`.
#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotMount {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    target: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ViewRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
}

/// Also the answer of `Mounts`.
#[derive(Clone, PartialEq, prost::Message)]
struct MountsResponse {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<SnapshotMount>,
}

/// Of `Mounts` and `Remove`.
#[derive(Clone, PartialEq, prost::Message)]
struct KeyRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

async fn call<Q, A>(cri: &Cri, method: &'static str, request: Q) -> Result<A, CriError>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let fail = |status: tonic::Status| CriError::Call { method, status: Box::new(status) };
    let mut grpc = tonic::client::Grpc::new(cri.channel());
    grpc.ready().await.map_err(|error| fail(tonic::Status::unavailable(error.to_string())))?;
    let mut request = tonic::Request::new(request);
    request
        .metadata_mut()
        .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static("k8s.io"));
    let path = format!("/containerd.services.snapshots.v1.Snapshots/{method}");
    let path =
        PathAndQuery::try_from(path).map_err(|error| fail(tonic::Status::internal(error.to_string())))?;
    let answer = grpc.unary(request, path, tonic_prost::ProstCodec::default()).await.map_err(fail)?;
    Ok(answer.into_inner())
}

/// The digest of an image's chain of layers, and the snapshotter that holds it.
async fn chain(cri: &Cri, image: &str) -> Result<(String, String), SnapshotError> {
    let spec = m::ImageSpec { image: image.to_owned(), ..m::ImageSpec::default() };
    let answer = cri.image_status(m::ImageStatusRequest { image: Some(spec), verbose: true }).await?;
    let info = answer.info.get("info").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let chain = info.and_then(|info| info.get("chainID")?.as_str().map(str::to_owned));
    let chain = chain.filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| SnapshotError::NoChain { image: image.to_owned() })?;
    let status = cri.status(m::StatusRequest { verbose: true }).await?;
    let config =
        status.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let snapshotter =
        config.and_then(|config| config.pointer("/containerd/snapshotter")?.as_str().map(str::to_owned));
    Ok((chain, snapshotter.unwrap_or_else(|| "overlayfs".to_owned())))
}

/// Mounts an image's files read-only at `target`. `key` names the mount in the runtime; repeatable.
pub async fn mount_image(cri: &Cri, image: &str, key: &str, target: &Path) -> Result<(), SnapshotError> {
    if mount::is_mount_point(target) {
        return Ok(());
    }
    let (parent, snapshotter) = chain(cri, image).await?;
    // Without this label the runtime's garbage collector takes the snapshot.
    let labels = [("containerd.io/gc.root".to_owned(), "navarch".to_owned())].into();
    let view = ViewRequest { snapshotter: snapshotter.clone(), key: key.to_owned(), parent, labels };
    let answer: MountsResponse = match call(cri, "View", view).await {
        Err(CriError::Call { status, .. }) if status.code() == tonic::Code::AlreadyExists => {
            call(cri, "Mounts", KeyRequest { snapshotter, key: key.to_owned() }).await?
        }
        answer => answer?,
    };
    let fail = |source: std::io::Error| MountError { action: "make", path: target.to_owned(), source };
    std::fs::create_dir_all(target).map_err(fail)?;
    for made in answer.mounts {
        mount_one(&made, target)?;
    }
    Ok(())
}

fn mount_one(made: &SnapshotMount, target: &Path) -> Result<(), SnapshotError> {
    let fail = |source: rustix::io::Errno| MountError {
        action: "mount an image at",
        path: target.to_owned(),
        source: source.into(),
    };
    match made.r#type.as_str() {
        "bind" => {
            mount::bind(Path::new(&made.source), target)?;
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(target, flags, "").map_err(fail)?;
        }
        "overlay" => {
            let options: Vec<&str> = made
                .options
                .iter()
                .map(String::as_str)
                .filter(|option| !matches!(*option, "ro" | "rw"))
                .collect();
            let options = CString::new(options.join(",")).unwrap_or_default();
            rustix::mount::mount("overlay", target, "overlay", MountFlags::RDONLY, Some(options.as_c_str()))
                .map_err(fail)?;
        }
        kind => return Err(SnapshotError::Kind { kind: kind.to_owned() }),
    }
    Ok(())
}

/// Forgets a mount of [`mount_image`] after it was unmounted. Repeatable.
pub async fn forget_image(cri: &Cri, key: &str) {
    let request = KeyRequest { snapshotter: "overlayfs".to_owned(), key: key.to_owned() };
    if let Err(error) = call::<_, Empty>(cri, "Remove", request).await
        && !error.is_not_found()
    {
        tracing::debug!(key, %error, "snapshot not removed");
    }
}

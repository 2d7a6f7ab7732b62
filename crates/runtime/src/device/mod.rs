//! Device plugins: the registration service that plugins call, and the calls to a plugin (device plugin API v1beta1).
//!
//! Must not know pods: devices are ids, and what a plugin grants is passed on.

mod registration;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

pub use registration::serve;

use crate::cri::{CriError, channel, server_stream};

/// The API's version.
pub const VERSION: &str = "v1beta1";
/// The socket that plugins register at, in the directory of their own sockets.
pub const SOCKET: &str = "kubelet.sock";
/// A plugin may take so long to answer.
const ANSWER: Duration = Duration::from_secs(10);

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $ty:ty,)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct $name { $($(#[$attribute])* pub $field: $ty,)* })*
    };
}

messages! {
    /// Nothing.
    Empty {}
    /// What a plugin wants to be asked.
    Options {
        /// Tell it before each start of a container.
        #[prost(bool, tag = "1")] pre_start_required: bool,
        /// Ask it which devices go well together.
        #[prost(bool, tag = "2")] preferred_available: bool,
    }
    /// A plugin makes itself known.
    RegisterRequest {
        /// The API's version.
        #[prost(string, tag = "1")] version: String,
        /// Its socket's name in the directory.
        #[prost(string, tag = "2")] endpoint: String,
        /// The resource it offers.
        #[prost(string, tag = "3")] resource_name: String,
        /// What it wants to be asked.
        #[prost(message, optional, tag = "4")] options: Option<Options>,
    }
    /// The devices that there are now.
    Devices {
        /// All of them.
        #[prost(message, repeated, tag = "1")] devices: Vec<Device>,
    }
    /// One device.
    Device {
        /// Its id.
        #[prost(string, tag = "1")] id: String,
        /// `Healthy` or not.
        #[prost(string, tag = "2")] health: String,
    }
    /// Devices asked for.
    AllocateRequest {
        /// By container.
        #[prost(message, repeated, tag = "1")] containers: Vec<Ids>,
    }
    /// Ids of devices.
    Ids {
        /// The ids.
        #[prost(string, repeated, tag = "1")] ids: Vec<String>,
    }
    /// Devices granted.
    AllocateResponse {
        /// By container.
        #[prost(message, repeated, tag = "1")] containers: Vec<Grant>,
    }
    /// What a container gets with its devices.
    Grant {
        /// Environment variables.
        #[prost(btree_map = "string, string", tag = "1")] envs: BTreeMap<String, String>,
        /// Mounts.
        #[prost(message, repeated, tag = "2")] mounts: Vec<Mount>,
        /// Device files.
        #[prost(message, repeated, tag = "3")] devices: Vec<DeviceFile>,
        /// Annotations for the runtime.
        #[prost(btree_map = "string, string", tag = "4")] annotations: BTreeMap<String, String>,
        /// Names of CDI devices.
        #[prost(message, repeated, tag = "5")] cdi_devices: Vec<Named>,
    }
    /// A name.
    Named {
        /// The name.
        #[prost(string, tag = "1")] name: String,
    }
    /// A mount.
    Mount {
        /// Where in the container.
        #[prost(string, tag = "1")] container_path: String,
        /// What of the node.
        #[prost(string, tag = "2")] host_path: String,
        /// Not writable.
        #[prost(bool, tag = "3")] read_only: bool,
    }
    /// A device file.
    DeviceFile {
        /// Where in the container.
        #[prost(string, tag = "1")] container_path: String,
        /// Which of the node.
        #[prost(string, tag = "2")] host_path: String,
        /// Of `rwm`.
        #[prost(string, tag = "3")] permissions: String,
    }
}

/// A plugin's socket.
#[derive(Clone, Debug)]
pub struct Plugin(Channel);

impl Plugin {
    /// Connects when first called.
    pub fn new(socket: &Path) -> Plugin {
        Plugin(channel(socket))
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let fail = |status: tonic::Status| CriError::Call { method: path, status: Box::new(status) };
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| fail(tonic::Status::unavailable(error.to_string())))?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(ANSWER);
        let codec = tonic_prost::ProstCodec::default();
        let work = grpc.unary(request, PathAndQuery::from_static(path), codec);
        match tokio::time::timeout(ANSWER, work).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(fail),
            Err(_) => Err(fail(tonic::Status::deadline_exceeded("the device plugin takes too long"))),
        }
    }

    /// The devices, again whenever they change.
    pub async fn watch(&self) -> Result<tonic::Streaming<Devices>, CriError> {
        let path = "/v1beta1.DevicePlugin/ListAndWatch";
        server_stream(self.0.clone(), "ListAndWatch", path, tonic::Request::new(Empty {})).await
    }

    /// What a container gets with these devices.
    pub async fn allocate(&self, ids: Vec<String>) -> Result<Grant, CriError> {
        let request = AllocateRequest { containers: vec![Ids { ids }] };
        let answer: AllocateResponse = self.call("/v1beta1.DevicePlugin/Allocate", request).await?;
        Ok(answer.containers.into_iter().next().unwrap_or_default())
    }

    /// A container with these devices is about to start.
    pub async fn pre_start(&self, ids: Vec<String>) -> Result<(), CriError> {
        let _: Empty = self.call("/v1beta1.DevicePlugin/PreStartContainer", Ids { ids }).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn plugins_register() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join(SOCKET);
        let listener = UnixListener::bind(&socket).expect("bound");
        let (sender, mut registrations) = mpsc::unbounded_channel();
        let register = async {
            let caller = Plugin::new(&socket);
            let request = |version: &str| RegisterRequest {
                version: version.to_owned(),
                endpoint: "x.sock".to_owned(),
                resource_name: "example.com/x".to_owned(),
                options: None,
            };
            let path = "/v1beta1.Registration/Register";
            let refused = caller.call::<_, Empty>(path, request("v1")).await.expect_err("another version");
            assert!(refused.is_unimplemented());
            caller.call::<_, Empty>(path, request(VERSION)).await.expect("registered");
        };
        tokio::select! {
            () = serve(listener, sender) => panic!("serving ended"),
            () = register => {}
        }
        assert_eq!(registrations.recv().await.map(|request| request.endpoint).as_deref(), Some("x.sock"));
    }
}

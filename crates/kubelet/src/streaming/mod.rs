//! Commands, attachments, port-forwards and logs of this node's containers, for the API server's proxy and for
//! kubectl behind it.
//!
//! SPDY clients are connected to the runtime's streaming server byte for byte, as upstream's kubelet does: the
//! runtime speaks their protocol. WebSocket clients are bridged here, message by message, to a SPDY connection.
//!
//! Must not know how requests are authenticated (the server has done it) nor how pods are run.

mod backend;
mod command;
pub mod logs;
mod node;
mod ports;
mod refusal;
pub mod route;

use std::sync::Arc;

use base::http::Body;
use base::{Clock, Tasks};
use http::{Method, Request, Response, StatusCode};

pub use node::{Found, Node};
pub use refusal::Refusal;
pub use route::{Action, Query, Target};

/// Serves `/exec`, `/attach`, `/run`, `/portForward` and `/containerLogs`.
#[derive(Clone)]
pub struct Streaming {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
}

impl Streaming {
    /// For the pods of `node`; connections live as tasks of `tasks`.
    pub fn new(node: Arc<dyn Node>, clock: Clock, tasks: Tasks) -> Self {
        Streaming { node, clock, tasks }
    }

    /// True for paths served here.
    pub fn owns(path: &str) -> bool {
        route::parse(path).is_some()
    }

    /// Answers a request whose sender may do what it asks. The request keeps the extensions that hyper gave it:
    /// upgrades need them.
    pub async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let Some(target) = route::parse(request.uri().path()) else {
            return Refusal::new(StatusCode::NOT_FOUND, "404 page not found").into_response();
        };
        if !allowed(target.action).contains(request.method()) {
            return Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed").into_response();
        }
        let done = match target.action {
            Action::Exec | Action::Attach => self.command(&target, request).await,
            Action::Run => self.run(&target, request.uri().query()).await,
            Action::PortForward => self.port_forward(&target, request).await,
            Action::Logs => self.logs(&target, request),
        };
        done.unwrap_or_else(Refusal::into_response)
    }

    /// The pod of a target; with a uid in the path it must be that pod.
    fn find(&self, target: &Target) -> Result<Found, Refusal> {
        let missing = |text: &str| Refusal::new(StatusCode::NOT_FOUND, text);
        let found =
            self.node.pod(&target.namespace, &target.pod).ok_or_else(|| missing("pod does not exist"))?;
        let same = target.uid.as_ref().is_none_or(|uid| found.pod.metadata.uid.as_ref() == Some(uid));
        if same { Ok(found) } else { Err(missing("pod not found")) }
    }
}

fn allowed(action: Action) -> &'static [Method] {
    match action {
        Action::Exec | Action::Attach | Action::PortForward => &[Method::GET, Method::POST],
        Action::Run => &[Method::POST],
        Action::Logs => &[Method::GET, Method::HEAD],
    }
}

#[cfg(test)]
mod tests;

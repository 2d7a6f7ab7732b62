//! How a request reaches an API server. Must not know what the request means.

use std::sync::Arc;

use api::UserInfo;
use base::http::Body;
use futures::future::BoxFuture;
use http::{Request, Response};

use crate::ClientError;

/// Carries requests. The request's URI has a path and query only.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request; resolves when the response's head is there.
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>>;
}

/// An API server in this process.
pub type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Calls a server of this process, as a given user: no socket, no TLS, no credentials.
#[derive(Clone)]
pub struct InProcess {
    handler: Handler,
    user: UserInfo,
}

impl InProcess {
    /// Requests go to `handler` as `user`.
    pub fn new(handler: Handler, user: UserInfo) -> Self {
        InProcess { handler, user }
    }
}

impl Transport for InProcess {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        request.extensions_mut().insert(self.user.clone());
        let answer = (self.handler)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

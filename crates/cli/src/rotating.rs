//! A way to the API server whose certificate can be replaced while calls are made.

use std::sync::Arc;

use base::http::Body;
use client::{ClientError, Https, Transport};
use http::{Request, Response};
use tokio::sync::watch;

/// Calls go over the newest of its connections; what is under way on older ones ends there.
#[derive(Clone)]
pub struct Rotating(Arc<watch::Sender<Https>>);

impl Rotating {
    /// Begins with `first`.
    pub fn new(first: Https) -> Rotating {
        Rotating(Arc::new(watch::Sender::new(first)))
    }

    /// Calls from now on go over `next`.
    pub fn replace(&self, next: Https) {
        self.0.send_replace(next);
    }
}

impl Transport for Rotating {
    fn call(
        &self,
        request: Request<Body>,
    ) -> futures::future::BoxFuture<'_, Result<Response<Body>, ClientError>> {
        let https = self.0.borrow().clone();
        Box::pin(async move { https.call(request).await })
    }
}

//! The server's own tasks that follow the store: run until a watch ends, then again. Must not know what is followed.

use std::time::Duration;

use store::HistoryError;

use crate::server::Server;

/// How soon a watch that broke is opened again.
const RETRY: Duration = Duration::from_secs(1);

impl Server {
    /// Runs `once` as a task of this name, and again after a pause when its watch ends, until the store is closed.
    pub(crate) fn follow<F>(&self, name: &'static str, once: fn(Server) -> F)
    where
        F: Future<Output = HistoryError> + Send + 'static,
    {
        let server = self.clone();
        self.tasks.spawn(name, async move {
            while !server.tasks.cancel_token().is_cancelled() {
                if matches!(once(server.clone()).await, HistoryError::Closed) {
                    return;
                }
                server.clock.sleep(RETRY).await;
            }
        });
    }
}

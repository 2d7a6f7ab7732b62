//! Takes away a pod that preemption has chosen. Must not know why it was chosen.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Pod;
use base::Clock;
use client::{Client, ClientError, DeleteOptions, Patch};
use tokio::sync::Semaphore;

use crate::pod::PodInfo;

/// Seconds to wait each time before a victim that could not be removed is tried again.
const AGAIN: [u64; 5] = [1, 2, 4, 8, 16];

/// A victim, to be marked and then deleted: one that could not be marked stays, for nobody would know why it went.
pub struct Removal {
    pub client: Client,
    /// Lets writes through, so many at a time.
    pub writes: Arc<Semaphore>,
    pub victim: Arc<PodInfo>,
    /// The condition that marks it.
    pub condition: Patch,
}

impl Removal {
    /// Removes it, with some patience: the preemptor has been promised the room and waits for it.
    pub async fn run(self, clock: Clock) {
        for seconds in AGAIN {
            let Err(error) = self.once().await else { return };
            tracing::warn!(pod = %self.victim.key, %error, "cannot remove the victim; trying again");
            clock.sleep(Duration::from_secs(seconds)).await;
        }
    }

    async fn once(&self) -> Result<(), ClientError> {
        // The semaphore is never closed.
        let _permit = self.writes.acquire().await;
        let (victim, name) = (&self.victim, self.victim.pod.metadata.name.as_deref().unwrap_or_default());
        // Gone, or another pod of that name, which nobody chose.
        let is_over = |error: &ClientError| error.is_not_found() || error.is_conflict();
        match self.client.patch_status::<Pod>(&victim.namespace, name, &self.condition).await {
            Err(error) if is_over(&error) => return Ok(()),
            marked => drop(marked?),
        }
        match self.client.delete::<Pod>(&victim.namespace, name, &DeleteOptions::uid(&victim.uid)).await {
            Err(error) if is_over(&error) => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;

    use base::http::Body;
    use client::Transport;
    use http::{Method, Request, Response};
    use serde_json::json;

    use super::*;

    /// Answers with these codes, one after the other, and notes what it was asked.
    struct Server {
        codes: Mutex<Vec<u16>>,
        asked: Arc<Mutex<Vec<Method>>>,
    }

    impl Transport for Server {
        fn call(
            &self,
            request: Request<Body>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, ClientError>> + Send + '_>> {
            self.asked.lock().expect("no panic").push(request.method().clone());
            let code = self.codes.lock().expect("no panic").remove(0);
            let body = match code {
                200 => json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}),
                404 => json!({"kind": "Status", "code": 404, "reason": "NotFound"}),
                409 => json!({"kind": "Status", "code": 409, "reason": "Conflict"}),
                _ => json!({"kind": "Status", "code": 500, "reason": "InternalError"}),
            };
            let body = base::http::full(body.to_string());
            Box::pin(async move { Ok(Response::builder().status(code).body(body).expect("a response")) })
        }
    }

    #[tokio::test]
    async fn a_victim_is_marked_before_it_goes() {
        let (mark, delete) = (Method::PATCH, Method::DELETE);
        for (codes, asked, fine) in [
            (vec![200, 200], vec![mark.clone(), delete.clone()], true),
            (vec![200, 404], vec![mark.clone(), delete.clone()], true),
            (vec![200, 500], vec![mark.clone(), delete.clone()], false),
            (vec![500], vec![mark.clone()], false),
            (vec![404], vec![mark.clone()], true),
            (vec![409], vec![mark.clone()], true),
        ] {
            let seen = Arc::<Mutex<Vec<Method>>>::default();
            let server = Server { codes: Mutex::new(codes.clone()), asked: seen.clone() };
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}}),
            )
            .expect("a pod");
            let removal = Removal {
                client: Client::new(Arc::new(server), "test", Clock::system()),
                writes: Arc::new(Semaphore::new(1)),
                victim: Arc::new(PodInfo::new(Arc::new(pod))),
                condition: Patch::Strategic(json!({})),
            };
            assert_eq!(removal.once().await.is_ok(), fine, "{codes:?}");
            assert_eq!(*seen.lock().expect("no panic"), asked, "{codes:?}");
        }
    }
}

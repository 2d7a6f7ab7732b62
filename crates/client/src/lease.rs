//! Leader election by a Lease: one holder at a time, as upstream's client-go elects.

use std::time::Duration;

use api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use api::k8s::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use base::{Clock, Rng};
use jiff::Timestamp;

use crate::{Client, ClientError};

/// How to elect.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// The lease's namespace, such as `kube-system`.
    pub namespace: String,
    /// The lease's name, such as `kube-controller-manager`.
    pub name: String,
    /// Who we are: unique among the candidates.
    pub identity: String,
    /// A lease not renewed for this long may be taken.
    pub duration: Duration,
    /// A holder that could not renew for this long gives up.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry: Duration,
}

impl LeaseConfig {
    /// With upstream's times: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        LeaseConfig {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// One candidate.
pub struct Election {
    client: Client,
    config: LeaseConfig,
    clock: Clock,
    rng: Rng,
    /// The record last seen and when (by our own clock) it last changed.
    observed: Option<(LeaseSpec, Duration)>,
}

impl Election {
    /// A candidate that holds nothing.
    pub fn new(client: Client, config: LeaseConfig, clock: Clock, rng: Rng) -> Self {
        Election { client, config, clock, rng, observed: None }
    }

    /// Waits until this candidate holds the lease.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_hold().await {
                Ok(true) => {
                    let LeaseConfig { namespace, name, identity, .. } = &self.config;
                    tracing::info!(%namespace, %name, %identity, "became leader");
                    return;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "lease not acquired"),
            }
            self.clock.sleep(self.config.retry.mul_f64(1.0 + 0.2 * self.rng.f64())).await;
        }
    }

    /// Renews the lease; returns when it is lost.
    pub async fn keep(&mut self) {
        let clock = self.clock.clone();
        let mut renewed = clock.monotonic();
        loop {
            clock.sleep(self.config.retry).await;
            // A request that hangs must not keep a lease that has run out.
            let asked = clock.monotonic();
            let left = (renewed + self.config.renew_deadline).saturating_sub(asked);
            match clock.timeout(left, self.try_hold()).await {
                Some(Ok(true)) => renewed = asked,
                Some(Ok(false)) | None => return,
                Some(Err(error)) => tracing::debug!(%error, "lease not renewed"),
            }
        }
    }

    /// Gives the lease up, so that another candidate need not wait.
    pub async fn release(&mut self) -> Result<(), ClientError> {
        let LeaseConfig { namespace, name, identity, .. } = &self.config;
        let mut lease: Lease = self.client.get(namespace, name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.client.update(&lease).await.map(drop)
    }

    /// Takes or renews the lease if it is free or ours. True when we hold it afterwards.
    pub async fn try_hold(&mut self) -> Result<bool, ClientError> {
        let LeaseConfig { namespace, name, .. } = &self.config;
        let now = self.clock.now();
        let Some(mut lease) = self.client.get_opt::<Lease>(namespace, name).await? else {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            };
            let lease = Lease { metadata, spec: Some(self.spec(None, now)) };
            let made = self.client.create(&lease).await?;
            self.observed = made.spec.map(|spec| (spec, self.clock.monotonic()));
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let at = match &self.observed {
            Some((known, at)) if *known == spec => *at,
            _ => self.clock.monotonic(),
        };
        self.observed = Some((spec.clone(), at));
        if !self.may_take(&spec, at) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(&spec), now));
        let written = self.client.update(&lease).await?;
        self.observed = written.spec.map(|spec| (spec, self.clock.monotonic()));
        Ok(true)
    }

    fn may_take(&self, spec: &LeaseSpec, seen: Duration) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        if holder.is_empty() || holder == self.config.identity {
            return true;
        }
        let seconds = spec.lease_duration_seconds.unwrap_or(15).max(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.clock.monotonic().saturating_sub(seen) > duration
    }

    fn spec(&self, old: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let ours = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.config.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        let acquired = old.filter(|_| ours).and_then(|old| old.acquire_time.clone());
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: acquired.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if ours || old.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use base::http::Body;
    use futures::future::BoxFuture;
    use http::{Method, Request, Response};
    use parking_lot::Mutex;

    use super::*;
    use crate::Transport;

    /// A server with one lease, which may stop to answer.
    #[derive(Clone, Default)]
    struct Server {
        lease: Arc<Mutex<Option<Vec<u8>>>>,
        silent: Arc<AtomicBool>,
    }

    impl Transport for Server {
        fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
            Box::pin(async move {
                if self.silent.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                let write = *request.method() != Method::GET;
                let body = base::http::read(request.into_body(), usize::MAX).await.expect("a body");
                let mut lease = self.lease.lock();
                if write {
                    *lease = Some(body.to_vec());
                }
                let (code, text) = match &*lease {
                    Some(lease) => (200, lease.clone()),
                    None => (404, br#"{"kind":"Status","code":404,"reason":"NotFound"}"#.to_vec()),
                };
                Ok(Response::builder().status(code).body(base::http::full(text)).expect("a response"))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_falls_silent_ends_leadership_before_the_lease_runs_out() {
        let (server, clock) = (Server::default(), Clock::system());
        let client = Client::new(Arc::new(server.clone()), "test", clock.clone());
        let config = LeaseConfig::new("kube-system", "test", "one");
        let mut election = Election::new(client, config, clock.clone(), Rng::seeded(1));
        election.acquire().await;
        let (silent, at) = (server.silent.clone(), clock.clone());
        let (_, ended) = tokio::join!(
            async {
                at.sleep(Duration::from_secs(60)).await;
                silent.store(true, Ordering::Relaxed);
            },
            async {
                election.keep().await;
                clock.monotonic()
            }
        );
        let lived = ended - Duration::from_secs(60);
        assert!(lived <= Duration::from_secs(10), "{lived:?}");
    }
}

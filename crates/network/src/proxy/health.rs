//! What load balancers and probes are told: is this proxy alive, and does this node have endpoints of a service.
//!
//! Must not know the table. Paths and bodies as upstream's kube-proxy, which cloud load balancers read.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::metrics::Metrics;
use base::{Cancel, Clock, Tasks};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::http::{Handler, Reply, serve};

/// A change that is not in the kernel after this long means that the proxy is ill.
const APPLY_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries to open a health port that somebody else holds.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct State {
    /// When the oldest change came that is not applied yet.
    waiting_since: Option<jiff::Timestamp>,
    last_applied: Option<jiff::Timestamp>,
    /// The node is to receive new traffic.
    eligible: bool,
    /// Service → its health check port, and its endpoints on this node.
    services: BTreeMap<String, (u16, usize)>,
}

/// The health of one proxy; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    clock: Clock,
    state: Arc<Mutex<State>>,
    ports_changed: Arc<Notify>,
}

impl Health {
    /// A proxy that has applied nothing.
    pub fn new(clock: Clock) -> Health {
        let state =
            State { waiting_since: None, last_applied: None, eligible: true, services: BTreeMap::new() };
        Health { clock, state: Arc::new(Mutex::new(state)), ports_changed: Arc::new(Notify::new()) }
    }

    /// A change came in.
    pub fn queued(&self) {
        let now = self.clock.now();
        self.state.lock().waiting_since.get_or_insert(now);
    }

    /// Everything that came in before the call is in the kernel.
    pub fn applied(&self) {
        let mut state = self.state.lock();
        state.waiting_since = None;
        state.last_applied = Some(self.clock.now());
    }

    /// Whether load balancers should send this node new traffic.
    pub fn set_eligible(&self, eligible: bool) {
        self.state.lock().eligible = eligible;
    }

    /// A Service's health check port and number of endpoints here, if it has such a port.
    pub fn set_service(&self, key: &str, service: Option<(u16, usize)>) {
        let mut state = self.state.lock();
        let old = match service {
            Some(service) => state.services.insert(key.to_owned(), service),
            None => state.services.remove(key),
        };
        if old.map(|(port, _)| port) != service.map(|(port, _)| port) {
            self.ports_changed.notify_one();
        }
    }

    /// Changes reach the kernel in time, and the first state has reached it.
    pub fn is_alive(&self) -> bool {
        let state = self.state.lock();
        let now = self.clock.now();
        let late = |since: jiff::Timestamp| {
            Duration::try_from(now.duration_since(since)).is_ok_and(|waited| waited > APPLY_LIMIT)
        };
        state.last_applied.is_some() && !state.waiting_since.is_some_and(late)
    }

    /// The reply of `/healthz` (which minds eligibility) and `/livez` (which does not).
    fn reply(&self, mind_eligibility: bool) -> Reply {
        let alive = self.is_alive();
        let state = self.state.lock();
        let now = self.clock.now();
        let updated = if state.waiting_since.is_none() { Some(now) } else { state.last_applied };
        let good = alive && (state.eligible || !mind_eligibility);
        let mut body = json!({
            "lastUpdated": updated.map(|t| t.to_string()),
            "currentTime": now.to_string(),
        });
        if mind_eligibility {
            body["nodeEligible"] = state.eligible.into();
        }
        Reply::json(if good { 200 } else { 503 }, &body)
    }

    /// Serves `/healthz` and `/livez`.
    pub fn handler(&self) -> Handler {
        let health = self.clone();
        Arc::new(move |path| match path {
            "/healthz" => Some(health.reply(true)),
            "/livez" => Some(health.reply(false)),
            _ => None,
        })
    }

    /// Serves `/metrics`, `/healthz` and `/proxyMode`.
    pub fn metrics_handler(&self, metrics: Metrics) -> Handler {
        let health = self.clone();
        Arc::new(move |path| match path {
            "/healthz" => Some(if health.is_alive() { Reply::text(200, "ok") } else { Reply::text(503, "") }),
            "/proxyMode" => Some(Reply::text(200, "nftables")),
            "/metrics" => Some(Reply::text(200, metrics.render())),
            _ => None,
        })
    }

    fn service_reply(&self, key: &str) -> Option<Reply> {
        let alive = self.is_alive();
        let state = self.state.lock();
        let (_, here) = *state.services.get(key)?;
        let (namespace, name) = key.split_once('/')?;
        let body = json!({
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": here,
            "serviceProxyHealthy": alive && state.eligible,
        });
        let good = here > 0 && alive && state.eligible;
        let mut reply = Reply::json(if good { 200 } else { 503 }, &body);
        reply.headers.push(("x-load-balancing-endpoint-weight", here.to_string()));
        Some(reply)
    }

    /// Keeps one listener open for each Service with a health check port.
    pub async fn serve_services(self, tasks: Tasks) {
        let mut open: BTreeMap<u16, (String, Cancel)> = BTreeMap::new();
        loop {
            let wanted: BTreeMap<u16, String> =
                self.state.lock().services.iter().map(|(key, (port, _))| (*port, key.clone())).collect();
            open.retain(|port, (key, cancel)| {
                let keep = wanted.get(port) == Some(key);
                if !keep {
                    cancel.cancel();
                }
                keep
            });
            for (port, key) in wanted {
                if open.contains_key(&port) {
                    continue;
                }
                let cancel = tasks.cancel_token().child();
                let server = self.clone().serve_service(port, key.clone(), tasks.clone());
                let stop = cancel.clone();
                tasks.spawn("service health port", async move {
                    stop.run(server).await;
                });
                open.insert(port, (key, cancel));
            }
            self.ports_changed.notified().await;
        }
    }

    async fn serve_service(self, port: u16, key: String, tasks: Tasks) {
        let listener = loop {
            match listen_everywhere(port).await {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::warn!(service = key, port, %error, "cannot open the health check port");
                    self.clock.sleep(LISTEN_RETRY).await;
                }
            }
        };
        let (health, clock) = (self.clone(), self.clock.clone());
        let handler: Handler = Arc::new(move |_| health.service_reply(&key));
        serve(listener, handler, tasks, clock).await;
    }
}

async fn listen_everywhere(port: u16) -> std::io::Result<TcpListener> {
    let at = |address: IpAddr| TcpListener::bind(SocketAddr::new(address, port));
    match at(Ipv6Addr::UNSPECIFIED.into()).await {
        Ok(listener) => Ok(listener),
        // A machine without IPv6.
        Err(_) => at(Ipv4Addr::UNSPECIFIED.into()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_is_ill_when_a_change_waits_too_long() {
        let clock = Clock::starting_at("2030-01-01T00:00:00Z".parse().unwrap());
        let health = Health::new(clock.clone());
        let status = |health: &Health| health.reply(true).status;
        assert_eq!(status(&health), 503, "nothing was applied yet");
        health.applied();
        assert_eq!(status(&health), 200);
        health.queued();
        clock.sleep(Duration::from_secs(50)).await;
        health.queued();
        assert_eq!(status(&health), 200);
        clock.sleep(Duration::from_secs(20)).await;
        assert_eq!(status(&health), 503);
        health.applied();
        health.set_eligible(false);
        assert_eq!((status(&health), health.reply(false).status), (503, 200));
    }

    #[tokio::test]
    async fn a_service_is_healthy_where_it_has_endpoints() {
        let health = Health::new(Clock::system());
        health.applied();
        health.set_service("a/b", Some((30_000, 2)));
        let reply = health.service_reply("a/b").unwrap();
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (
                200,
                r#"{"localEndpoints":2,"service":{"name":"b","namespace":"a"},"serviceProxyHealthy":true}"#
            )
        );
        health.set_service("a/b", Some((30_000, 0)));
        assert_eq!(health.service_reply("a/b").unwrap().status, 503);
        health.set_service("a/b", None);
        assert!(health.service_reply("a/b").is_none());
    }
}

//! Priority and fairness: which flow a request belongs to, and when its turn comes. Flows and levels are the
//! stored FlowSchemas and PriorityLevelConfigurations.

mod defaults;
mod queues;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::user::UserInfo;
use base::Clock;
use http::{HeaderMap, HeaderValue};
use parking_lot::{Mutex, RwLock};
use registry::tree::Tree;
use serde_json::{Value, json};
use store::{HistoryError, Interest, WatchFrom};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::measure::{self, Flow};
use crate::object;
use crate::request::RequestInfo;
use crate::server::{Exchange, Server};

use queues::{Entry, Seats, Taken};
use schema::Schema;

pub use defaults::objects;

const SCHEMAS: &str = "flowcontrol.apiserver.k8s.io/flowschemas";
const LEVELS: &str = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations";
/// How long a request waits for its turn: a quarter of upstream's request timeout.
const WAIT: Duration = Duration::from_secs(15);

/// Everything that decides about turns.
pub struct Fairness {
    schemas: RwLock<Arc<Vec<Schema>>>,
    seats: Arc<Mutex<Seats>>,
}

/// A request's place; given back when dropped.
pub struct Turn {
    seats: Arc<Mutex<Seats>>,
    level: Option<Arc<str>>,
    counts: Flow,
    clock: Clock,
    began: Duration,
    schema_uid: Arc<str>,
    level_uid: Arc<str>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(level) = &self.level {
            self.seats.lock().leave(level);
        }
        self.counts.end(self.clock.monotonic().saturating_sub(self.began));
    }
}

/// A place in a queue. Who goes away just when called gives the seat back.
struct Waiting {
    seats: Arc<Mutex<Seats>>,
    level: Arc<str>,
    called: oneshot::Receiver<()>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.called.close();
        if self.called.try_recv().is_ok() {
            self.seats.lock().leave(&self.level);
        }
    }
}

impl Turn {
    /// Says which flow and level the request was of.
    pub fn tell(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(name, value);
            }
        }
    }
}

/// What runs long holds no place. Of a watch, only its beginning counts: its place is given back with the answer's head.
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb != "watch"
        && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
}

fn busy() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

impl Fairness {
    /// With the configured number of places.
    pub fn new(config: &Config) -> Fairness {
        let total = config.max_requests_inflight + config.max_mutating_requests_inflight;
        Fairness { schemas: RwLock::default(), seats: Arc::new(Mutex::new(Seats::new(total))) }
    }

    /// Waits for the request's turn. `None` for those that need none: what runs long is not counted.
    pub async fn turn(&self, server: &Server, exchange: &Exchange) -> Result<Option<Turn>, ApiError> {
        let info = &exchange.info;
        if is_long_running(info) {
            return Ok(None);
        }
        let schemas = self.schemas.read().clone();
        let Some(schema) = schemas.iter().find(|schema| schema.matches(&exchange.user, info)) else {
            return Ok(None);
        };
        let flow = schema.flow(&exchange.user, info);
        let (level, level_uid, entry) = {
            let mut seats = self.seats.lock();
            let entry = seats.enter(&schema.level, flow);
            (schema.level.clone(), seats.uid(&schema.level), entry)
        };
        let refused = |why| {
            measure::refused(&server.metrics, &schema.name, &schema.level, why);
            busy()
        };
        let came = server.clock.monotonic();
        let seat = match entry {
            Entry::Exempt => None,
            Entry::Seated => Some(level),
            Entry::Refused => return Err(refused("queue-full")),
            Entry::Queued(called) => {
                let mut waiting = Waiting { seats: self.seats.clone(), level: level.clone(), called };
                match server.clock.timeout(WAIT, &mut waiting.called).await {
                    Some(Ok(())) => Some(level),
                    _ => return Err(refused("time-out")),
                }
            }
        };
        let began = server.clock.monotonic();
        let waited = began.saturating_sub(came);
        exchange.wait(waited);
        schema.counts.begin(waited);
        Ok(Some(Turn {
            seats: self.seats.clone(),
            level: seat,
            counts: schema.counts.clone(),
            clock: server.clock.clone(),
            began,
            schema_uid: schema.uid.clone(),
            level_uid,
        }))
    }

    /// The seats of each level, as they are now.
    pub fn levels(&self) -> Vec<(Arc<str>, Taken)> {
        self.seats.lock().taken()
    }
}

impl Server {
    /// Takes flows and levels from the store, and keeps up with them.
    pub(crate) fn follow_flows(&self) {
        self.load_flows();
        self.follow("priority and fairness", |server| async move { server.follow_flows_once().await });
    }

    /// Follows until a watch ends.
    async fn follow_flows_once(&self) -> HistoryError {
        let open = |resource: &str| self.store.watch(resource, Interest::All, WatchFrom::Now);
        let (mut schemas, mut levels) = match (open(SCHEMAS), open(LEVELS)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        self.tell_dangling().await;
        loop {
            self.load_flows();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let result = tokio::select! {
                biased;
                result = schemas.next_batch(&mut a) => result,
                result = levels.next_batch(&mut b) => result,
            };
            if let Err(error) = result {
                return error;
            }
            self.restore_flows().await;
            self.tell_dangling().await;
        }
    }

    /// Says in the status of flow schemas whether their level exists.
    async fn tell_dangling(&self) {
        let levels = self.store.snapshot(LEVELS);
        let schemas: Vec<Value> =
            self.store.snapshot(SCHEMAS).range(None, None).map(|stored| object::tree(stored)).collect();
        for schema in schemas {
            let level = schema.text("spec.priorityLevelConfiguration.name");
            let refers =
                format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
            let (status, reason, message) = match levels.get("", level) {
                Some(_) => ("False", "Found", format!("{refers} and it exists")),
                None => ("True", "NotFound", format!("{refers} but there is no such object")),
            };
            let mut all = schema.list("status.conditions").to_vec();
            if all.iter().any(|c| c.text("type") == "Dangling" && c.text("status") == status) {
                continue;
            }
            all.retain(|c| c.text("type") != "Dangling");
            let now = api::time::format(self.clock.now());
            all.push(json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": now}));
            let name = schema.text("metadata.name");
            let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status");
            self.internal_patch(&path, json!({"status": {"conditions": all}})).await;
        }
    }

    fn load_flows(&self) {
        let snapshot = self.store.snapshot(SCHEMAS);
        let mut schemas: Vec<Schema> = snapshot
            .range(None, None)
            .map(|stored| Schema::new(&object::tree(stored), &self.metrics))
            .collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let snapshot = self.store.snapshot(LEVELS);
        let levels: Vec<_> = snapshot.range(None, None).map(|stored| object::tree(stored)).collect();
        self.fairness.seats.lock().configure(&levels);
        *self.fairness.schemas.write() = Arc::new(schemas);
    }

    /// The mandatory objects come back when somebody deletes them.
    async fn restore_flows(&self) {
        for object in objects() {
            let (kind, name) = (object.text("kind"), object.text("metadata.name"));
            let resource = if kind == "FlowSchema" { SCHEMAS } else { LEVELS };
            let mandatory = matches!(name, "exempt" | "catch-all");
            if mandatory && self.store.snapshot(resource).get("", name).is_none() {
                let plural = resource.rsplit('/').next().unwrap_or_default();
                let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}");
                self.internal(http::Method::POST, &path, Some(object)).await;
            }
        }
    }
}

/// Who a flow distinguishes.
fn subject_of<'a>(kind: &str, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
    match kind {
        "ByUser" => &user.name,
        "ByNamespace" => &info.namespace,
        _ => "",
    }
}

//! Whether remote group versions can be reached: checked when an APIService, its service or its endpoints
//! change, and from time to time. The outcome goes to the APIService's status and to the table of remotes.

use std::sync::Arc;
use std::time::Duration;

use registry::tree::Tree;
use serde_json::{Value, json};
use store::{HistoryError, Interest, Key, WatchFrom};

use super::{Remote, Remotes, STORAGE, fetch};
use crate::object;
use crate::server::Server;

/// How often reachable servers are checked again, as upstream.
const AGAIN: Duration = Duration::from_secs(30);
/// How soon those are checked again that cannot be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How often a server is asked before it counts as unreachable: its endpoints may not all be well.
const TRIES: usize = 3;

/// A condition's status, reason and message.
type Verdict = (&'static str, &'static str, String);

impl Server {
    /// Keeps the table of remote group versions.
    pub(crate) fn follow_services(&self) {
        self.follow("aggregation", |server| async move { server.follow_services_once().await });
    }

    /// Follows until a watch ends.
    async fn follow_services_once(&self) -> HistoryError {
        let open = |resource: &str| self.store.watch(resource, Interest::All, WatchFrom::Now);
        let (mut services, mut addresses, mut endpoints) =
            match (open(STORAGE), open("services"), open("discovery.k8s.io/endpointslices")) {
                (Ok(a), Ok(b), Ok(c)) => (a, b, c),
                (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => return error,
            };
        loop {
            let well = self.check_services().await;
            let none = self.remotes.now().is_empty();
            let wait = if well { AGAIN } else { RETRY };
            let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
            let ended = tokio::select! {
                biased;
                () = self.tasks.cancel_token().cancelled() => return HistoryError::Closed,
                result = services.next_batch(&mut a) => result,
                result = addresses.next_batch(&mut b), if !none => result,
                result = endpoints.next_batch(&mut c), if !none => result,
                () = self.clock.sleep(wait), if !none => Ok(()),
            };
            match ended {
                Ok(()) => {}
                // What was not looked at while there was nothing to check may have fallen behind.
                Err(error) => return error,
            }
        }
    }

    /// Checks all; true when all can be reached.
    async fn check_services(&self) -> bool {
        let snapshot = self.store.snapshot(STORAGE);
        let remote = |tree: &Value| tree.has("spec.service");
        let trees = snapshot.range(None, None).map(|stored| object::tree(stored));
        let (remote, local): (Vec<Value>, Vec<Value>) = trees.partition(remote);
        for tree in local.iter().filter(|tree| condition(tree).is_null()) {
            let verdict = ("True", "Local", "Local APIServices are always available".to_owned());
            self.tell(tree, &verdict).await;
        }
        let mut table = Remotes::new();
        let mut well = true;
        for tree in &remote {
            let mut entry = Remote::new(self, tree);
            let verdict = self.verdict(&mut entry, tree).await;
            entry.available = verdict.0 == "True";
            well &= entry.available;
            self.tell(tree, &verdict).await;
            table.insert((entry.group.clone(), entry.version.clone()), Arc::new(entry));
        }
        self.keep(table);
        self.register_services().await;
        well
    }

    /// Swaps the table in if it differs.
    fn keep(&self, table: Remotes) {
        let same = {
            let held = self.remotes.now();
            held.len() == table.len()
                && held.iter().zip(&table).all(|((a, x), (b, y))| {
                    a == b
                        && x.available == y.available
                        && x.service == y.service
                        && x.spec == y.spec
                        && x.priorities == y.priorities
                        && x.resources == y.resources
                        && x.openapi_hash == y.openapi_hash
                })
        };
        // Documents are made anew only when the table is another one.
        if !same {
            *self.remotes.0.write() = Arc::new(table);
        }
    }

    async fn verdict(&self, entry: &mut Remote, tree: &Value) -> Verdict {
        if let Some(verdict) = self.unreachable(tree) {
            return verdict;
        }
        let path = match entry.group.as_str() {
            "" => format!("/api/{}", entry.version),
            group => format!("/apis/{group}/{}", entry.version),
        };
        let mut last = String::new();
        for _ in 0..TRIES {
            match fetch(self, entry, &path).await {
                Ok(bytes) => {
                    entry.resources = serde_json::from_slice(&bytes).ok();
                    entry.openapi_hash = self.openapi_hash(entry).await;
                    return ("True", "Passed", "all checks passed".to_owned());
                }
                Err(why) => last = why,
            }
        }
        ("False", "FailedDiscoveryCheck", last)
    }

    async fn openapi_hash(&self, entry: &Remote) -> Option<String> {
        let index: Value = serde_json::from_slice(&fetch(self, entry, "/openapi/v3").await.ok()?).ok()?;
        let path = format!("apis/{}/{}", entry.group, entry.version);
        let url = index.at("paths").get(&path)?.text("serverRelativeURL").to_owned();
        url.split_once("hash=").map(|(_, hash)| hash.to_owned())
    }

    /// What stands in the way before anything is asked: no service, no port, no endpoints.
    fn unreachable(&self, tree: &Value) -> Option<Verdict> {
        let service = tree.at("spec.service");
        let (namespace, name) = (service.text("namespace"), service.text("name"));
        let port = service.at("port").as_i64().unwrap_or(443);
        let Some(stored) = self.store.get(&Key::new("services", namespace, name)) else {
            let why = format!("service/{name} in {namespace:?} is not present");
            return Some(("False", "ServiceNotFound", why));
        };
        let service = object::tree(&stored);
        if service.text("spec.type") != "ClusterIP" {
            return None;
        }
        let Some(found) = service.list("spec.ports").iter().find(|p| p.int("port") == port) else {
            let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
            return Some(("False", "ServicePortError", why));
        };
        let snapshot = self.store.snapshot("discovery.k8s.io/endpointslices");
        let label = |stored: &&Arc<store::Object>| {
            stored.attrs.label("kubernetes.io/service-name").is_some_and(|own| &**own == name)
        };
        let slices: Vec<Value> =
            snapshot.range(Some(namespace), None).filter(label).map(|stored| object::tree(stored)).collect();
        if slices.is_empty() {
            let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return Some(("False", "EndpointsNotFound", why));
        }
        let port_name = found.text("name");
        let active = |slice: &Value| {
            let ready = |e: &Value| e.at("conditions.ready") != &Value::Bool(false);
            slice.list("endpoints").iter().any(ready)
                && slice.list("ports").iter().any(|p| p.text("name") == port_name && p.has("port"))
        };
        (!slices.iter().any(active)).then(|| {
            let why = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            ("False", "MissingEndpoints", why)
        })
    }

    /// Writes the condition when it changes.
    async fn tell(&self, tree: &Value, (status, reason, message): &Verdict) {
        let old = condition(tree);
        if old.text("status") == *status && old.text("reason") == *reason && old.text("message") == message {
            return;
        }
        let mut since = api::time::format(self.clock.now());
        if old.text("status") == *status {
            since = old.text("lastTransitionTime").to_owned();
        }
        let mut all: Vec<Value> = tree.list("status.conditions").to_vec();
        all.retain(|c| c.text("type") != "Available");
        all.push(json!({"type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since}));
        let path =
            format!("/apis/apiregistration.k8s.io/v1/apiservices/{}/status", tree.text("metadata.name"));
        let (code, answer) = self.internal_patch(&path, json!({"status": {"conditions": all}})).await;
        if code >= 300 {
            tracing::debug!(code, answer = answer.text("message"), "status of an APIService was not written");
        }
    }
}

fn condition(tree: &Value) -> &Value {
    let found = tree.list("status.conditions").iter().find(|c| c.text("type") == "Available");
    found.unwrap_or(&Value::Null)
}

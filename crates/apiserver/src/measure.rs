//! What the server tells of itself at `/metrics`, under upstream's names. It must not decide anything.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base::http::Body;
use base::metrics::{Metric, Metrics};
use http::{Method, Response};
use hyper::body::Body as _;
use parking_lot::RwLock;
use registry::tree::Tree;

use crate::admission::Operation;
use crate::request::RequestInfo;
use crate::server::{Exchange, Server};

const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const SLI_SECONDS: &[f64] = SECONDS.split_at(2).1;
const BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const IDENTITY_SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
const ADMISSION_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WAIT_SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const REQUESTS: &str =
    "Requests by verb, dry run, group, version, resource, scope, component and status code.";
const LATENCY: &str = "Seconds until a response began.";
const SLI: &str = "Seconds until a response began, without webhooks and without waiting for a turn.";
const SIZES: &str = "Bytes of responses.";

/// The series of one sort of request, looked up once.
struct Sort {
    total: Metric,
    /// All but the count: watches have none.
    rest: Option<[Metric; 3]>,
}

/// How often something ended in each of its ways, and how long it took.
struct Ways(HashMap<&'static str, (Metric, Metric)>);

/// Everything that is counted while requests are served.
pub struct Measures {
    metrics: Metrics,
    sorts: RwLock<HashMap<String, Arc<Sort>>>,
    authentication: Ways,
    authorization: Ways,
    /// Requests at work: reading, changing.
    at_work: [Metric; 2],
    /// Admission in its two parts.
    steps: [Admissions; 2],
}

/// A request at work, until dropped.
pub struct AtWork(Metric);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

impl Ways {
    fn new(
        metrics: &Metrics,
        names: [&'static str; 2],
        what: [&'static str; 2],
        ways: &[&'static str],
    ) -> Ways {
        let one = |way: &&'static str| {
            let labels = [("result", *way)];
            let count = metrics.counter(names[0], what[0], &labels);
            (*way, (count, metrics.histogram(names[1], what[1], IDENTITY_SECONDS, &labels)))
        };
        Ways(ways.iter().map(one).collect())
    }

    fn note(&self, way: &str, took: Duration) {
        if let Some((count, seconds)) = self.0.get(way) {
            count.inc();
            seconds.observe(took.as_secs_f64());
        }
    }
}

/// The two halves of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What changes objects.
    Admit,
    /// What refuses them.
    Validate,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Part::Admit => "admit",
            Part::Validate => "validate",
        }
    }
}

/// The histograms of one step of admission, by operation and outcome.
#[derive(Clone, Debug)]
pub struct Admissions([[Metric; 2]; 4]);

impl Admissions {
    fn new(metrics: &Metrics, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Admissions {
        let operations = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];
        Admissions(operations.map(|operation| {
            ["false", "true"].map(|rejected| {
                let mut all = labels.to_vec();
                all.extend([("operation", operation.as_str()), ("rejected", rejected)]);
                all.sort_unstable();
                metrics.histogram(name, help, ADMISSION_SECONDS, &all)
            })
        }))
    }

    /// Of a built-in plugin's part.
    pub fn of_plugin(metrics: &Metrics, plugin: &str, part: Part) -> Admissions {
        let name = "apiserver_admission_controller_admission_duration_seconds";
        let help = "Seconds that a built-in admission plugin took, by operation, part and outcome.";
        Admissions::new(metrics, name, help, &[("name", plugin), ("type", part.as_str())])
    }

    /// Notes one run.
    pub fn note(&self, operation: Operation, good: bool, took: Duration) {
        let [create, update, delete, connect] = &self.0;
        let series = match operation {
            Operation::Create => create,
            Operation::Update => update,
            Operation::Delete => delete,
            Operation::Connect => connect,
        };
        let [allowed, rejected] = series;
        if good { allowed } else { rejected }.observe(took.as_secs_f64());
    }
}

/// What one flow of priority and fairness counts.
#[derive(Clone, Debug)]
pub struct Flow {
    dispatched: Metric,
    executing: Metric,
    waited: Metric,
    ran: Metric,
}

impl Flow {
    /// Of a flow schema and its level.
    pub fn new(metrics: &Metrics, schema: &str, level: &str) -> Flow {
        let labels = [("flow_schema", schema), ("priority_level", level)];
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        let executed = [("execute", "true"), labels[0], labels[1]];
        let waited = metrics.histogram(name, "Seconds in a queue.", WAIT_SECONDS, &executed);
        let name = "apiserver_flowcontrol_request_execution_seconds";
        let kind = [labels[0], labels[1], ("type", "regular")];
        let ran = metrics.histogram(name, "Seconds at work, of a watch its beginning.", WAIT_SECONDS, &kind);
        let name = "apiserver_flowcontrol_dispatched_requests_total";
        let dispatched = metrics.counter(name, "Requests that had their turn.", &labels);
        let name = "apiserver_flowcontrol_current_executing_requests";
        Flow { dispatched, executing: metrics.gauge(name, "Requests at work.", &labels), waited, ran }
    }

    /// A request's turn has come.
    pub fn begin(&self, waited: Duration) {
        self.dispatched.inc();
        self.executing.inc();
        self.waited.observe(waited.as_secs_f64());
    }

    /// It is over.
    pub fn end(&self, ran: Duration) {
        self.executing.add(-1.0);
        self.ran.observe(ran.as_secs_f64());
    }
}

/// A request that got no turn, and why (`queue-full`, `time-out`).
pub fn refused(metrics: &Metrics, schema: &str, level: &str, why: &str) {
    let name = "apiserver_flowcontrol_rejected_requests_total";
    let labels = [("flow_schema", schema), ("priority_level", level), ("reason", why)];
    metrics.counter(name, "Requests that got no turn.", &labels).inc();
}

/// An admission webhook's answer.
pub fn webhook(
    metrics: &Metrics,
    name: &str,
    part: Part,
    operation: Operation,
    rejected: bool,
    took: Duration,
) {
    let rejected = if rejected { "true" } else { "false" };
    let operation = operation.as_str();
    let labels = [("name", name), ("operation", operation), ("rejected", rejected), ("type", part.as_str())];
    let family = "apiserver_admission_webhook_admission_duration_seconds";
    let help = "Seconds that an admission webhook took, by operation, part and outcome.";
    metrics
        .histogram(family, help, &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0], &labels)
        .observe(took.as_secs_f64());
}

/// The verb as metrics name it.
fn verb(exchange: &Exchange) -> &'static str {
    let info = &exchange.info;
    if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if exchange.is_apply() => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if info.namespace.is_empty() {
        "cluster"
    } else {
        "namespace"
    }
}

/// What a request is about, by the names of upstream's labels, in their order.
fn row_labels<'a>(info: &'a RequestInfo, verb: &'a str) -> [(&'static str, &'a str); 7] {
    [
        ("component", "apiserver"),
        ("group", info.group.as_str()),
        ("resource", info.resource.as_str()),
        ("scope", scope(info)),
        ("subresource", info.subresource.as_str()),
        ("verb", verb),
        ("version", info.version.as_str()),
    ]
}

impl Measures {
    /// Nothing counted yet.
    pub fn new(metrics: &Metrics) -> Measures {
        let at_work = ["readOnly", "mutating"].map(|kind| {
            let name = "apiserver_current_inflight_requests";
            metrics.gauge(name, "Requests at work, but those that run long.", &[("request_kind", kind)])
        });
        let steps = [Part::Admit, Part::Validate].map(|part| {
            let name = "apiserver_admission_step_admission_duration_seconds";
            Admissions::new(
                metrics,
                name,
                "Seconds of a whole step of admission.",
                &[("type", part.as_str())],
            )
        });
        let [authentication, authorization] = [
            (
                ["authentication_attempts", "authentication_duration_seconds"],
                ["Attempts to tell who asks, by result.", "Seconds that it took."],
                &["success", "failure"][..],
            ),
            (
                ["authorization_attempts_total", "authorization_duration_seconds"],
                ["Decisions about requests, by result.", "Seconds that they took."],
                &["allowed", "no-opinion"][..],
            ),
        ]
        .map(|(names, what, ways)| Ways::new(metrics, names, what, ways));
        Measures {
            metrics: metrics.clone(),
            sorts: RwLock::default(),
            authentication,
            authorization,
            at_work,
            steps,
        }
    }

    /// Notes how long a part of admission took.
    pub fn step(&self, part: Part, operation: Operation, good: bool, took: Duration) {
        let [admit, validate] = &self.steps;
        if part == Part::Admit { admit } else { validate }.note(operation, good, took);
    }

    /// Whether a request's credentials were good.
    pub fn authenticated(&self, good: bool, took: Duration) {
        self.authentication.note(if good { "success" } else { "failure" }, took);
    }

    /// Whether a request may.
    pub fn authorized(&self, good: bool, took: Duration) {
        self.authorization.note(if good { "allowed" } else { "no-opinion" }, took);
    }

    /// A request has its turn; of a watch, which runs long, nothing is held.
    pub fn at_work(&self, exchange: &Exchange) -> Option<AtWork> {
        if exchange.info.verb == "watch" || verb(exchange) == "CONNECT" {
            return None;
        }
        let changing = !matches!(exchange.head.method, Method::GET | Method::HEAD);
        let gauge = self.at_work[usize::from(changing)].clone();
        gauge.inc();
        Some(AtWork(gauge))
    }

    /// A watch has begun; it counts until what this returns is dropped.
    pub fn running(&self, exchange: &Exchange) -> AtWork {
        let labels = row_labels(&exchange.info, verb(exchange));
        let name = "apiserver_longrunning_requests";
        let gauge = self.metrics.gauge(name, "Watches open, by what they watch.", &labels);
        gauge.inc();
        AtWork(gauge)
    }

    /// A request was answered, after so long, of which so much was spent waiting for others.
    pub fn answered(&self, exchange: &Exchange, response: &Response<Body>, took: Duration, waited: Duration) {
        let sort = self.sort(exchange, response);
        sort.total.inc();
        if let Some([latency, sli, sizes]) = &sort.rest {
            latency.observe(took.as_secs_f64());
            sli.observe(took.saturating_sub(waited).as_secs_f64());
            if let Some(bytes) = response.body().size_hint().exact() {
                #[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
                sizes.observe(bytes as f64);
            }
        }
    }

    fn sort(&self, exchange: &Exchange, response: &Response<Body>) -> Arc<Sort> {
        let info = &exchange.info;
        let (verb, scope, code) = (verb(exchange), scope(info), response.status());
        let dry_run = if exchange.query.text("dryRun").is_empty() { "" } else { "All" };
        let mut key = String::with_capacity(96);
        let _ = write!(
            key,
            "{verb} {scope} {} {dry_run} {}/{}/{}/{}",
            code.as_u16(),
            info.group,
            info.version,
            info.resource,
            info.subresource
        );
        if let Some(sort) = self.sorts.read().get(&key) {
            return sort.clone();
        }
        let sort = Arc::new(self.new_sort(info, verb, dry_run, code.as_str()));
        self.sorts.write().entry(key).or_insert(sort).clone()
    }

    fn new_sort(&self, info: &RequestInfo, verb: &str, dry_run: &str, code: &str) -> Sort {
        let row = row_labels(info, verb);
        let dry = {
            let mut all = row.to_vec();
            all.insert(1, ("dry_run", dry_run));
            all
        };
        let mut full = dry.clone();
        full.insert(0, ("code", code));
        let metrics = &self.metrics;
        let histogram =
            |name, help, bounds, labels: &[(&str, &str)]| metrics.histogram(name, help, bounds, labels);
        let rest = (verb != "WATCH" && verb != "CONNECT").then(|| {
            [
                histogram("apiserver_request_duration_seconds", LATENCY, SECONDS, &dry),
                histogram("apiserver_request_sli_duration_seconds", SLI, SLI_SECONDS, &row),
                histogram("apiserver_response_sizes", SIZES, BYTES, &row),
            ]
        });
        Sort { total: metrics.counter("apiserver_request_total", REQUESTS, &full), rest }
    }
}

impl Server {
    /// Everything in Prometheus' text format, gauges brought up to date.
    pub(crate) fn exposition(&self) -> String {
        base::process::measure(&self.metrics);
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let stats = self.store.stats();
        for (resource, count, _) in &stats.resources {
            let (group, plural) = resource.split_once('/').unwrap_or(("", resource));
            let labels = [("group", group), ("resource", plural)];
            let name = "apiserver_resource_objects";
            self.metrics.gauge(name, "Objects stored, by resource.", &labels).set(number(*count));
            let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
            let name = "apiserver_storage_objects";
            let labels = [("resource", qualified.as_str())];
            self.metrics.gauge(name, "Objects stored, by resource.", &labels).set(number(*count));
        }
        #[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
        let disk = stats.disk_bytes as f64;
        let (name, labels) = ("apiserver_storage_size_bytes", [("storage_cluster_id", "etcd-0")]);
        self.metrics.gauge(name, "Bytes of the store on disk.", &labels).set(disk);
        let name = "apiserver_registered_watchers";
        self.metrics.gauge(name, "Watches open.", &[]).set(number(stats.watches));
        for (level, seats) in self.fairness.levels() {
            for (name, help, count) in [
                ("apiserver_flowcontrol_nominal_limit_seats", "Seats by a level's shares.", seats.nominal),
                (
                    "apiserver_flowcontrol_lower_limit_seats",
                    "Seats that others cannot borrow.",
                    seats.reserved,
                ),
                ("apiserver_flowcontrol_upper_limit_seats", "Seats with all that it may borrow.", seats.most),
                ("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait.", seats.waiting),
                ("apiserver_flowcontrol_current_executing_seats", "Seats taken.", seats.executing),
            ] {
                self.metrics.gauge(name, help, &[("priority_level", &level)]).set(number(count));
            }
        }
        self.tell_build();
        self.metrics.render()
    }

    fn tell_build(&self) {
        let version = crate::discovery::version();
        let labels = [
            ("build_date", version.text("buildDate")),
            ("compiler", version.text("compiler")),
            ("git_commit", version.text("gitCommit")),
            ("git_tree_state", version.text("gitTreeState")),
            ("git_version", version.text("gitVersion")),
            ("go_version", version.text("goVersion")),
            ("major", version.text("major")),
            ("minor", version.text("minor")),
            ("platform", version.text("platform")),
        ];
        self.metrics.gauge("kubernetes_build_info", "1, labelled with what runs.", &labels).set(1.0);
    }
}

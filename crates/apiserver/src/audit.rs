//! The audit log: who did what, as much of it as the policy says, one JSON event a line. It must not know what
//! requests mean.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::user::UserInfo;
use base::Clock;
use base::http::Body;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use jiff::Timestamp;
use registry::tree::Tree;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::negotiate::JSON;
use crate::server::{BODY_LIMIT, Exchange, Server};

/// Events that wait to be written; beyond it requests wait, as upstream's blocking mode makes them.
const WAITING: usize = 10_000;
/// Bytes of an answer that an event may carry.
const ANSWER: usize = 64 << 20;

/// How much of a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what and when.
    Metadata,
    /// And the request's body.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "None" => Level::None,
            "Metadata" => Level::Metadata,
            "Request" => Level::Request,
            "RequestResponse" => Level::RequestResponse,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A policy: the first rule that fits a request decides.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Value>,
    omitted: Vec<Value>,
}

impl Policy {
    /// Reads a policy file; what is wrong with it.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let document = machinery::codec::yaml::decode_first(text.as_bytes()).map_err(|e| e.to_string())?;
        let tree = document.value;
        if tree.text("kind") != "Policy" || tree.text("apiVersion") != "audit.k8s.io/v1" {
            return Err("it must be a Policy of audit.k8s.io/v1".to_owned());
        }
        if tree.list("rules").is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        for (at, rule) in tree.list("rules").iter().enumerate() {
            if Level::parse(rule.text("level")).is_none() {
                let level = rule.text("level");
                return Err(format!(
                    "rules[{at}].level: Unsupported value: {level:?}: supported values: \"Metadata\", \"None\", \"Request\", \"RequestResponse\""
                ));
            }
        }
        Ok(Policy { rules: tree.list("rules").to_vec(), omitted: tree.list("omitStages").to_vec() })
    }

    /// Level and omitted stages of a request.
    fn decide(&self, exchange: &Exchange) -> (Level, Vec<Value>) {
        let Some(rule) = self.rules.iter().find(|rule| fits(rule, exchange)) else {
            return (Level::None, Vec::new());
        };
        let mut omitted = self.omitted.clone();
        omitted.extend(rule.list("omitStages").iter().cloned());
        (Level::parse(rule.text("level")).unwrap_or(Level::None), omitted)
    }
}

fn any(list: &[Value], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == wanted)
}

fn fits(rule: &Value, exchange: &Exchange) -> bool {
    let (info, user) = (&exchange.info, &exchange.user);
    let groups = rule.list("userGroups");
    let group = |g: &Value| g.as_str().is_some_and(|g| user.in_group(g));
    if !any(rule.list("users"), &user.name)
        || !(groups.is_empty() || groups.iter().any(group))
        || !any(rule.list("verbs"), &info.verb)
    {
        return false;
    }
    let (namespaces, resources) = (rule.list("namespaces"), rule.list("resources"));
    if info.is_resource {
        // A namespace itself is in no namespace.
        let place = if info.resource == "namespaces" { "" } else { info.namespace.as_str() };
        return (rule.list("nonResourceURLs").is_empty() || !resources.is_empty() || !namespaces.is_empty())
            && any(namespaces, place)
            && (resources.is_empty() || resources.iter().any(|group| resource_fits(group, exchange)));
    }
    let urls = rule.list("nonResourceURLs").iter().filter_map(Value::as_str);
    let url = |wanted: &str| match wanted.strip_suffix('*') {
        Some(start) => info.path.starts_with(start),
        None => wanted == info.path,
    };
    let unlimited = rule.list("nonResourceURLs").is_empty();
    if unlimited { namespaces.is_empty() && resources.is_empty() } else { urls.into_iter().any(url) }
}

fn resource_fits(group: &Value, exchange: &Exchange) -> bool {
    let info = &exchange.info;
    let full = match info.subresource.as_str() {
        "" => info.resource.clone(),
        sub => format!("{}/{sub}", info.resource),
    };
    let covers = |wanted: &str| {
        wanted == "*"
            || wanted == full
            || wanted.strip_prefix("*/").is_some_and(|sub| !sub.is_empty() && sub == info.subresource)
            || wanted.strip_suffix("/*").is_some_and(|resource| resource == info.resource)
    };
    let names = group.list("resourceNames");
    let resources = group.list("resources");
    group.text("group") == info.group
        && (resources.is_empty() || resources.iter().filter_map(Value::as_str).any(covers))
        && any(names, &info.name)
}

/// What is told of one request.
pub struct Record {
    level: Level,
    omitted: Vec<Value>,
    event: Value,
    body: Option<Bytes>,
}

/// The log.
pub struct Audit {
    policy: Policy,
    sink: mpsc::Sender<String>,
}

fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
}

fn user_value(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// A body as JSON, whatever form it came in.
fn readable(bytes: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    if let Ok((value, _)) = machinery::codec::proto::decode_object(bytes) {
        return value;
    }
    machinery::codec::yaml::decode_first(bytes).map_or(Value::Null, |document| document.value)
}

impl Audit {
    /// Begins a record, if the policy wants one; the body comes back to be read again.
    pub async fn begin(&self, exchange: &mut Exchange, body: Body) -> Result<Body, api::ApiError> {
        let (level, omitted) = self.policy.decide(exchange);
        if level == Level::None {
            return Ok(body);
        }
        let mut record = Record { level, omitted, event: first(exchange), body: None };
        record.event["level"] = level.as_str().into();
        self.tell(&record, "RequestReceived", record.event.clone(), exchange.now).await;
        let mut body = body;
        let writes = !exchange.info.read_only() && exchange.info.is_resource;
        if level >= Level::Request && writes && !is_long(exchange) {
            let bytes = crate::write::read_body(body).await?;
            body = base::http::full(bytes.clone());
            record.body = Some(bytes).filter(|bytes| !bytes.is_empty() && bytes.len() <= BODY_LIMIT);
        }
        exchange.record = Some(record);
        Ok(body)
    }

    async fn tell(&self, record: &Record, stage: &str, mut event: Value, at: Timestamp) {
        if record.omitted.iter().any(|own| own == stage) {
            return;
        }
        event["stage"] = stage.into();
        event["stageTimestamp"] = time(at);
        // Closed only while the server ends.
        let _ = self.sink.send(event.to_string()).await;
    }

    /// Ends a record when the answer is known; for streams, when they end.
    pub async fn end(
        self: &Arc<Self>,
        server: &Server,
        exchange: &mut Exchange,
        response: Response<Body>,
    ) -> Response<Body> {
        let Some(mut record) = exchange.record.take() else { return response };
        let code = response.status();
        let event = &mut record.event;
        if *user_name(&event["user"]) != *exchange.user.name {
            event["impersonatedUser"] = user_value(&exchange.user);
        }
        event["annotations"] = json!(*exchange.annotations.lock());
        event["responseStatus"] = json!({"metadata": {}, "code": code.as_u16()});
        if let Some(bytes) = &record.body {
            event["requestObject"] = readable(bytes);
        }
        if is_long(exchange) && (code.is_success() || code.is_informational()) {
            let at = server.clock.now();
            self.tell(&record, "ResponseStarted", record.event.clone(), at).await;
            let guard = Ending { audit: self.clone(), clock: server.clock.clone(), record };
            return response.map(|inner| base::http::wrap(Watched { inner, _guard: guard }));
        }
        let wanted = record.level == Level::RequestResponse && exchange.info.is_resource;
        let response = self.answer(&mut record, response, wanted || code.is_client_error()).await;
        self.tell(&record, "ResponseComplete", record.event.clone(), server.clock.now()).await;
        response
    }

    /// Looks at the answer and gives it back.
    async fn answer(&self, record: &mut Record, response: Response<Body>, read: bool) -> Response<Body> {
        let json =
            response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(JSON.as_bytes()));
        let protobuf =
            response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().ends_with(b"protobuf"));
        if !read || !(json || protobuf) {
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = match base::http::read(body, ANSWER).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "an answer is too large for the audit log");
                let mut response = Response::new(base::http::empty());
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
        };
        let object = readable(&bytes);
        if object.text("kind") == "Status" {
            for key in ["status", "message", "reason"] {
                if object.has(key) {
                    record.event["responseStatus"][key] = object.at(key).clone();
                }
            }
        }
        if record.level == Level::RequestResponse {
            record.event["responseObject"] = object;
        }
        Response::from_parts(parts, base::http::full(bytes))
    }
}

fn user_name(user: &Value) -> &str {
    user.text("username")
}

fn is_long(exchange: &Exchange) -> bool {
    let info = &exchange.info;
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
}

/// The event as far as the request tells.
fn first(exchange: &Exchange) -> Value {
    let (info, head) = (&exchange.info, &exchange.head);
    let uri = head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": exchange.audit_id,
        "requestURI": uri, "verb": info.verb, "user": user_value(&exchange.user),
        "requestReceivedTimestamp": time(exchange.now)});
    if let Some(crate::listen::Address(address)) = head.extensions.get() {
        event["sourceIPs"] = json!([address.ip().to_string()]);
    }
    if let Some(agent) = head.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()) {
        event["userAgent"] = agent.into();
    }
    if info.is_resource {
        let mut object = json!({});
        for (key, text) in [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ] {
            if !text.is_empty() {
                object[key] = text.as_str().into();
            }
        }
        event["objectRef"] = object;
    }
    event
}

/// Tells of a stream's end when it is dropped.
struct Ending {
    audit: Arc<Audit>,
    clock: Clock,
    record: Record,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.record.omitted.iter().any(|own| own == "ResponseComplete") {
            return;
        }
        let mut event = std::mem::take(&mut self.record.event);
        event["stage"] = "ResponseComplete".into();
        event["stageTimestamp"] = time(self.clock.now());
        if self.audit.sink.try_send(event.to_string()).is_err() {
            tracing::warn!("the audit log is behind: the end of a stream is not told");
        }
    }
}

/// A body with something that lives as long.
struct Watched {
    inner: Body,
    _guard: Ending,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = base::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, base::BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Where the log goes, and when a new file begins.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Bytes after which a new file begins; 0 means never.
    pub max_bytes: u64,
    /// Old files that are kept; 0 means all.
    pub backups: usize,
}

impl Audit {
    /// Opens the log that is configured; `None` without one.
    pub fn open(config: &Config, clock: &Clock, tasks: &base::Tasks) -> Result<Option<Arc<Audit>>, String> {
        let (Some(policy), Some(log)) = (&config.audit_policy, &config.audit_log) else { return Ok(None) };
        let policy = Policy::parse(policy)?;
        let mut file = LogFile::open(log.clone(), clock.clone()).map_err(|error| error.to_string())?;
        let (sink, mut events) = mpsc::channel::<String>(WAITING);
        tasks.spawn("audit log", async move {
            while let Some(event) = events.recv().await {
                if let Err(error) = file.write(&event) {
                    tracing::error!(%error, "the audit log cannot be written");
                }
            }
        });
        Ok(Some(Arc::new(Audit { policy, sink })))
    }
}

struct LogFile {
    log: Log,
    clock: Clock,
    out: Option<std::fs::File>,
    bytes: u64,
}

impl LogFile {
    fn open(log: Log, clock: Clock) -> std::io::Result<LogFile> {
        let mut file = LogFile { log, clock, out: None, bytes: 0 };
        file.reopen()?;
        Ok(file)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        if self.log.path == Path::new("-") {
            return Ok(());
        }
        if let Some(parent) = self.log.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.create(true).append(true), 0o600);
        let out = options.open(&self.log.path)?;
        self.bytes = out.metadata()?.len();
        self.out = Some(out);
        Ok(())
    }

    fn write(&mut self, event: &str) -> std::io::Result<()> {
        let line = format!("{event}\n");
        let Some(out) = &mut self.out else { return std::io::stdout().write_all(line.as_bytes()) };
        out.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        if self.log.max_bytes > 0 && self.bytes >= self.log.max_bytes {
            self.rotate()?;
        }
        Ok(())
    }

    /// Puts the full file aside, named for the time, and lets the oldest go.
    fn rotate(&mut self) -> std::io::Result<()> {
        let path = &self.log.path;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let end = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let at = self.clock.now().strftime("%Y-%m-%dT%H-%M-%S%.3f");
        std::fs::rename(path, path.with_file_name(format!("{stem}-{at}{end}")))?;
        if self.log.backups > 0 {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let start = format!("{stem}-");
            let mut old: Vec<PathBuf> = std::fs::read_dir(folder)?
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start)))
                .collect();
            old.sort();
            let surplus = old.len().saturating_sub(self.log.backups);
            for path in old.into_iter().take(surplus) {
                std::fs::remove_file(path)?;
            }
        }
        self.reopen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: None\n  users: [system:kube-proxy]\n- level: Metadata\n";
        let policy = Policy::parse(text).expect("a policy");
        assert_eq!((policy.rules.len(), policy.omitted.len()), (2, 1));
        for wrong in [
            "kind: Policy",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]",
        ] {
            assert!(Policy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn full_files_are_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log { path: folder.path().join("audit.log"), max_bytes: 10, backups: 1 };
        let mut file = LogFile::open(log, Clock::system()).expect("a file");
        for at in 0..4 {
            file.write(&format!("event number {at}")).expect("written");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let count = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(count, 2, "the file and one old one");
    }
}

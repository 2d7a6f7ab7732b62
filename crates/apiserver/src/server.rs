//! The server: what it holds, and the request path as one ordered list of steps. It must not know any kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::http::Body;
use base::metrics::Metrics;
use base::{Clock, Rng, Tasks};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use jiff::Timestamp;
use parking_lot::Mutex;

use api::ApiError;
use api::user::UserInfo;
use store::Store;

use crate::admission::Admission;
use crate::alloc::Allocators;
use crate::audit::{Audit, Record};
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::config::Config;
use crate::fairness::{Fairness, Turn};
use crate::measure::Measures;
use crate::negotiate::{Accept, Offer};
use crate::object::{Rows, Trees};
use crate::request::{Query, RequestInfo};
use crate::{authn, authz, compress, discovery, negotiate, respond, verbs};

/// The largest body of a request, as upstream's (etcd's) limit.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// The longest name that a client may give its request.
const AUDIT_ID_MAX: usize = 64;

/// An API server; cheap to clone.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

/// What a server holds.
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) rows: Rows,
    pub(crate) trees: Trees,
    pub(crate) bundles: verbs::watch::Bundles,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) measures: Measures,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) admission: Admission,
    pub(crate) policies: crate::admission::policy::Cache,
    pub(crate) guards: crate::admission::policy::Made<crate::sub::eviction::Guard>,
    pub(crate) allocators: Allocators,
    pub(crate) documents: discovery::Documents,
    pub(crate) agents: crate::sub::agent::Agents,
    pub(crate) remotes: crate::aggregate::Table,
    pub(crate) usage: crate::sub::metrics::Answers,
    pub(crate) ready: std::sync::atomic::AtomicBool,
    pub(crate) fairness: Fairness,
    pub(crate) audit: Option<Arc<Audit>>,
}

impl std::ops::Deref for Server {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// One request on its way through the steps.
pub struct Exchange {
    /// What it asks for.
    pub info: RequestInfo,
    /// Its query.
    pub query: Query,
    /// Its head; the body travels apart.
    pub head: Parts,
    /// Who asks (after impersonation).
    pub user: UserInfo,
    /// When it came.
    pub now: Timestamp,
    /// Warnings for the client, as `Warning` headers.
    pub warnings: Mutex<Vec<String>>,
    /// What admission wants the audit log to say.
    pub annotations: Mutex<BTreeMap<String, String>>,
    /// What the audit log is to be told.
    pub record: Option<Record>,
    /// The place among the requests at work.
    pub turn: Option<Turn>,
    /// What the request is called in the audit log, and in its answer.
    pub audit_id: String,
    /// Whether the authorizers let it pass.
    pub passed: bool,
    /// Nanoseconds spent waiting for a turn and for webhooks.
    pub waited: std::sync::atomic::AtomicU64,
}

impl Exchange {
    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Adds a warning for the client, once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// As `warn`, before all other warnings.
    pub fn warn_first(&self, text: &str) {
        self.warnings.lock().insert(0, text.to_owned());
    }

    /// Whether the body is an apply's.
    pub fn is_apply(&self) -> bool {
        let kind = self.headers().get(http::header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"))
    }

    /// Time spent waiting for others.
    pub fn wait(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanos, std::sync::atomic::Ordering::Relaxed);
    }

    /// Adds an annotation for the audit log; the first of a key stays.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        self.annotations.lock().entry(key.to_owned()).or_insert_with(|| value.into());
    }

    /// The answer's form here.
    pub fn accept(&self, offer: Offer) -> Result<Accept, ApiError> {
        negotiate::accept(self.headers(), self.query.optional_flag("pretty"), offer)
    }
}

impl Server {
    /// A server over a store; call [`Server::start`] before serving.
    pub fn new(
        config: Config,
        rows: Rows,
        store: Store,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Server, ApiError> {
        let authenticator = Authenticator::new(&config)?;
        let authorizer = Authorizer::new(&config)?;
        let metrics = Metrics::new();
        let admission = Admission::new(&config, &metrics);
        let allocators = Allocators::new(&config);
        let agents = crate::sub::agent::Agents::new(&config)?;
        let audit = Audit::open(&config, &clock, &tasks).map_err(ApiError::internal)?;
        let inner = Inner {
            fairness: Fairness::new(&config),
            audit,
            authenticator,
            authorizer,
            admission,
            policies: crate::admission::policy::Cache::default(),
            guards: Default::default(),
            trees: Trees::default(),
            bundles: verbs::watch::Bundles::default(),
            allocators,
            agents,
            remotes: crate::aggregate::Table::default(),
            usage: crate::sub::metrics::Answers::default(),
            documents: discovery::Documents::default(),
            measures: Measures::new(&metrics),
            metrics,
            ready: std::sync::atomic::AtomicBool::new(false),
            config,
            store,
            rows,
            clock,
            rng,
            tasks,
        };
        Ok(Server(Arc::new(inner)))
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers one request. In process, an `api::user::UserInfo` among its extensions is its identity.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query());
        let info = RequestInfo::parse(&head.method, head.uri.path(), &query);
        let now = self.clock.now();
        let audit_id = self.audit_id(&head.headers);
        let mut exchange = Exchange {
            info,
            query,
            head,
            user: UserInfo::default(),
            now,
            warnings: Mutex::new(Vec::new()),
            annotations: Mutex::default(),
            record: None,
            turn: None,
            audit_id,
            passed: false,
            waited: std::sync::atomic::AtomicU64::new(0),
        };
        let started = self.clock.monotonic();
        let result = self.steps(&mut exchange, body).await;
        let mut response = match result {
            Ok(response) => response,
            Err(error) => self.refusal(&exchange, &error),
        };
        if exchange.head.method == http::Method::HEAD {
            *response.body_mut() = base::http::empty();
        }
        finish(&exchange, &mut response);
        self.count(&exchange, &response, self.clock.monotonic().saturating_sub(started));
        match &self.audit {
            Some(audit) => {
                let response = audit.end(self, &mut exchange, response).await;
                compress::apply(&exchange, response)
            }
            None => compress::apply(&exchange, response),
        }
    }

    /// The request path. Decode, admit, validate, store and encode follow in [`verbs::dispatch`].
    async fn steps(&self, exchange: &mut Exchange, body: Body) -> Result<Response<Body>, ApiError> {
        let (began, user) = (self.clock.monotonic(), authn::authenticate(self, exchange).await);
        self.measures.authenticated(user.is_ok(), self.clock.monotonic().saturating_sub(began));
        exchange.user = user?;
        let body = match &self.audit {
            Some(audit) => audit.begin(exchange, body).await?,
            None => body,
        };
        authn::impersonate(self, exchange).await?;
        exchange.turn = self.fairness.turn(self, exchange).await?;
        let _at_work = self.measures.at_work(exchange);
        let (began, verdict) = (self.clock.monotonic(), authz::authorize(self, exchange).await);
        self.measures.authorized(verdict.is_ok(), self.clock.monotonic().saturating_sub(began));
        verdict?;
        exchange.passed = true;
        let body = match crate::aggregate::serve(self, exchange, body).await? {
            Ok(response) => return Ok(response),
            Err(body) => body,
        };
        if exchange.info.is_resource {
            return verbs::dispatch(self, exchange, body).await;
        }
        discovery::serve(self, exchange).await
    }

    fn refusal(&self, exchange: &Exchange, error: &ApiError) -> Response<Body> {
        let offer = Offer { tables: false, protobuf: true, watch: false };
        let accept = exchange.accept(offer).unwrap_or(Accept::PLAIN);
        let mut response = respond::error(&accept, error);
        if !exchange.passed && matches!(error.code, 400 | 403) {
            // The answer repeats what the client sent.
            response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        }
        response
    }

    /// The client's own name for the request where it gives one, else a new one.
    fn audit_id(&self, headers: &HeaderMap) -> String {
        let given = headers.get("audit-id").and_then(|value| value.to_str().ok()).unwrap_or("");
        let sound = !given.is_empty() && given.len() <= AUDIT_ID_MAX;
        if sound { given.to_owned() } else { self.rng.uuid() }
    }

    /// Counts the answer. A path that names nothing must not make time series.
    fn count(&self, exchange: &Exchange, response: &Response<Body>, took: Duration) {
        let info = &exchange.info;
        let waited = Duration::from_nanos(exchange.waited.load(std::sync::atomic::Ordering::Relaxed));
        if info.is_resource && self.is_known(info) {
            self.measures.answered(exchange, response, took, waited);
        }
    }

    fn is_known(&self, info: &RequestInfo) -> bool {
        let rows = self.rows.now();
        let row = rows.get(&info.group, &info.version, &info.resource);
        row.is_some_and(|row| info.subresource.is_empty() || row.subresource(&info.subresource).is_some())
    }
}

fn finish(exchange: &Exchange, response: &mut Response<Body>) {
    for text in exchange.warnings.lock().iter() {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let value = format!("299 - {}", api::validation::go_quote(&clean));
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    let headers = response.headers_mut();
    if let Some(turn) = &exchange.turn {
        turn.tell(headers);
    }
    if let Ok(id) = HeaderValue::from_str(&exchange.audit_id) {
        headers.insert("audit-id", id);
    }
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
}

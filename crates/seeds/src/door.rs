//! The way of a component to the API server, with everything that can go wrong on it: answers that come late, never,
//! or after the deed is done; refusals; watches that break, lag or go back in time.
//!
//! Must not know what a request means, beyond its method and path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use apiserver::Server;
use base::http::Body;
use base::{Clock, Rng, Tasks};
use bytes::Bytes;
use client::{ClientError, Transport};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::json;

/// How bad the ways are; shares are of 10,000 calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Requests that never arrive.
    pub lost: u64,
    /// Requests that are done and whose answer never arrives.
    pub unanswered: u64,
    /// Requests that the server refuses: 429, 500, 503, 504.
    pub refused: u64,
    /// Calls that take up to [`Weather::slow_ms`] more.
    pub slow: u64,
    /// The longest delay, milliseconds.
    pub slow_ms: u64,
    /// Watches that break within two minutes.
    pub cut: u64,
    /// Chunks of a watch that come late, and all that follow.
    pub lag: u64,
    /// A resource whose watches always lag behind the others, by up to [`Weather::slow_ms`]; empty for none.
    pub late: &'static str,
    /// Resumed watches that begin with what was seen already.
    pub again: u64,
    /// Resumed watches that are told to list again.
    pub expired: u64,
}

#[derive(Default)]
struct State {
    weather: Weather,
    /// Components that reach nobody now.
    cut_off: BTreeSet<String>,
    /// When an answer was last withheld for a write, milliseconds, and for which path.
    unanswered: Vec<(u64, String)>,
}

/// What all doors of a world share; cheap to clone.
#[derive(Clone)]
pub struct Ways {
    state: Arc<Mutex<State>>,
    rng: Rng,
    clock: Clock,
    server: Server,
    tasks: Tasks,
}

impl Ways {
    /// To this server.
    pub fn new(server: Server, rng: Rng, clock: Clock, tasks: Tasks) -> Ways {
        Ways { state: Arc::default(), rng, clock, server, tasks }
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// The weather.
    pub fn weather(&self) -> Weather {
        self.state.lock().weather
    }

    /// Cuts a component off, or lets it through again.
    pub fn cut_off(&self, who: &str, off: bool) {
        let mut state = self.state.lock();
        if off {
            state.cut_off.insert(who.to_owned());
        } else {
            state.cut_off.remove(who);
        }
    }

    /// Everybody is let through.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.weather = Weather::default();
        state.cut_off.clear();
    }

    fn is_cut_off(&self, who: &str) -> bool {
        self.state.lock().cut_off.contains(who)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    fn happens(&self, share: u64) -> bool {
        share > 0 && self.rng.below(10_000) < share
    }

    /// A client of `who`, calling as `user`.
    pub fn client(&self, who: &str, user: UserInfo) -> client::Client {
        let door = Door { who: who.into(), user, ways: self.clone() };
        client::Client::new(Arc::new(door), &format!("{who}/seeds"), self.clock.clone())
    }

    /// A client whose calls are carried at once and always.
    pub fn plain(&self, user: UserInfo) -> client::Client {
        let server = self.server.clone();
        let handler: client::Handler = Arc::new(move |request| {
            let server = server.clone();
            Box::pin(async move { server.call(request).await })
        });
        client::Client::new(
            Arc::new(client::InProcess::new(handler, user)),
            "admin/seeds",
            self.clock.clone(),
        )
    }

    /// A delay that every call has, and sometimes more.
    async fn travel(&self) {
        let weather = self.weather();
        let mut wait = self.rng.below(4);
        if self.happens(weather.slow) {
            wait += self.rng.below(weather.slow_ms + 1);
        }
        self.clock.sleep(Duration::from_millis(wait)).await;
    }

    /// Does the request in a task of the server's: who asked may be gone before it is done.
    async fn ask(&self, request: Request<Body>) -> Option<Response<Body>> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let server = self.server.clone();
        self.tasks.spawn("request", async move {
            // Nobody may wait any more.
            let _ = reply.send(server.call(request).await);
        });
        answer.await.ok()
    }
}

/// One component's way.
struct Door {
    who: Arc<str>,
    user: UserInfo,
    ways: Ways,
}

fn broken(what: &str) -> ClientError {
    ClientError::Transport { what: what.to_owned(), source: "the connection broke".into() }
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("{reason} (simulated)"), "details": {"retryAfterSeconds": 1}});
    let mut response = Response::new(base::http::full(status.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    if code == 429 {
        response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The same address with an older revision.
fn rewound(uri: &Uri, revision: u64, back: u64) -> Option<Uri> {
    let old = format!("resourceVersion={revision}");
    let new = format!("resourceVersion={}", revision.saturating_sub(back).max(1));
    uri.to_string().replace(&old, &new).parse().ok()
}

impl Transport for Door {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(self.go(request))
    }
}

impl Door {
    async fn go(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let (ways, weather) = (&self.ways, self.ways.weather());
        let what = format!("{} {}", request.method(), request.uri().path());
        ways.travel().await;
        if ways.is_cut_off(&self.who) {
            ways.clock.sleep(Duration::from_secs(1 + ways.rng.below(10))).await;
            return Err(broken(&what));
        }
        if ways.happens(weather.lost) {
            ways.clock.sleep(Duration::from_millis(ways.rng.below(10_000))).await;
            return Err(broken(&what));
        }
        if ways.happens(weather.refused) {
            let kinds = [
                (429, "TooManyRequests"),
                (500, "InternalError"),
                (503, "ServiceUnavailable"),
                (504, "Timeout"),
            ];
            let (code, reason) = kinds[usize::try_from(ways.rng.below(4)).unwrap_or(0)];
            return Ok(refusal(code, reason));
        }
        let is_watch = query(request.uri(), "watch").is_some();
        if is_watch && let Some(refused) = self.resume(&mut request, weather) {
            return Ok(refused);
        }
        let is_write = request.method() != Method::GET;
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        request.extensions_mut().insert(self.user.clone());
        let answer = ways.ask(request).await.ok_or_else(|| broken(&what))?;
        ways.travel().await;
        if ways.happens(weather.unanswered) || ways.is_cut_off(&self.who) {
            if is_write {
                ways.state.lock().unanswered.push((ways.now_ms(), what.clone()));
            }
            ways.clock.sleep(Duration::from_millis(ways.rng.below(5_000))).await;
            return Err(broken(&what));
        }
        Ok(if is_watch { self.follow(answer, weather, resource) } else { answer })
    }

    /// Spoils the resumption of a watch: begins earlier, or is refused.
    fn resume(&self, request: &mut Request<Body>, weather: Weather) -> Option<Response<Body>> {
        let revision: u64 = query(request.uri(), "resourceVersion")?.parse().ok()?;
        if revision == 0 {
            return None;
        }
        if self.ways.happens(weather.expired) {
            return Some(refusal(410, "Expired"));
        }
        if self.ways.happens(weather.again)
            && let Some(uri) = rewound(request.uri(), revision, 1 + self.ways.rng.below(30))
        {
            *request.uri_mut() = uri;
        }
        None
    }

    /// The body of a watch that may lag and break.
    fn follow(&self, answer: Response<Body>, weather: Weather, resource: String) -> Response<Body> {
        let ways = self.ways.clone();
        let cut = ways.happens(weather.cut).then(|| Duration::from_millis(ways.rng.below(120_000)));
        let ends = cut.map(|after| ways.clock.monotonic() + after);
        let (head, body) = answer.into_parts();
        let stream = Stream { ways, who: self.who.clone(), resource, body, ends };
        let chunks = futures::stream::unfold(Some(stream), |stream| async move {
            let mut stream = stream?;
            match stream.next().await {
                None => None,
                Some(Ok(bytes)) => Some((Ok(http_body::Frame::data(bytes)), Some(stream))),
                Some(Err(error)) => Some((Err(error), None)),
            }
        });
        Response::from_parts(head, base::http::wrap(http_body_util::StreamBody::new(chunks)))
    }
}

/// A watch under way.
struct Stream {
    ways: Ways,
    who: Arc<str>,
    resource: String,
    body: Body,
    ends: Option<Duration>,
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Bytes, base::BoxError>> {
        let left = self.ends.map(|ends| ends.saturating_sub(self.ways.clock.monotonic()));
        let frame = match left {
            None => self.body.frame().await,
            Some(left) => match self.ways.clock.timeout(left, self.body.frame()).await {
                Some(frame) => frame,
                None => return Some(Err("the watch broke".into())),
            },
        };
        let weather = self.ways.weather();
        let mut wait = self.ways.rng.below(3);
        if self.resource == weather.late || self.ways.happens(weather.lag) {
            wait += self.ways.rng.below(weather.slow_ms + 1);
        }
        self.ways.clock.sleep(Duration::from_millis(wait)).await;
        if self.ways.is_cut_off(&self.who) {
            self.ways.clock.sleep(Duration::from_secs(5)).await;
            return Some(Err("cut off".into()));
        }
        match frame? {
            Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default())),
            Err(error) => Some(Err(error)),
        }
    }
}

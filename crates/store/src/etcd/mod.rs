//! The engine for several API servers: a real etcd decides conditions and revisions, and its watch
//! tells this server, in order, of everybody's changes, its own included. Must not answer reads:
//! they are served from memory, which follows etcd.

mod wire;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::{Backoff, Tasks, clock::Clock};
use futures::future::BoxFuture;
use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_prost::ProstCodec;

use crate::engine::codec::{decode_value, encode_value};
use crate::engine::{NO_ATTRIBUTES, opened_draft, sealed_draft};
use crate::remote::{Feed, Remote, Seen};
use crate::{Attrs, CommitError, EngineError, Expect, Interner, Key, Object, Op, Seal, Write};
use wire::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, EventType, KeyValue, PutRequest, RangeRequest,
    RangeResponse, Request, RequestOp, Response, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse, prefix_end,
};

/// Which etcd, and where in it.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http://` or `https://` addresses of its members.
    pub endpoints: Vec<String>,
    /// Everything is kept under this path.
    pub prefix: String,
    /// How to prove who one is and whom one talks to.
    pub tls: Option<EtcdTls>,
    /// Waits and ages.
    pub clock: Clock,
    /// Runs what follows etcd.
    pub tasks: Tasks,
    /// Changes older than this are compacted away.
    pub history: Duration,
}

/// Keys and certificates, PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub ca: Vec<u8>,
    /// Our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdOptions {
    /// Keeps everything under `/navarch`, five minutes of history.
    pub fn new(endpoints: Vec<String>, clock: Clock, tasks: Tasks) -> Self {
        let history = Duration::from_secs(300);
        Self { endpoints, prefix: "/navarch".into(), tls: None, clock, tasks, history }
    }
}

/// A connection to etcd.
pub struct Etcd {
    options: EtcdOptions,
    tasks: Tasks,
    /// One for each member.
    members: Vec<Channel>,
    /// The member that is asked, until it fails.
    current: AtomicUsize,
    indexer_version: AtomicU32,
    seal: OnceLock<Arc<dyn Seal>>,
}

/// Answers are never larger than what one page of objects can be.
const MESSAGE_MAX: usize = 1 << 30;
/// Objects read per call on load.
const PAGE: i64 = 500;
/// Longest wait for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait before following etcd again after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How following etcd ended.
enum Ended {
    /// etcd no longer has the changes that are missing here.
    Compacted,
    /// The stream broke.
    Broken,
}

impl Etcd {
    /// Prepares a connection; nothing is sent yet.
    pub fn new(options: EtcdOptions) -> Result<Self, EngineError> {
        let mut members = Vec::new();
        for address in &options.endpoints {
            let endpoint = Endpoint::from_shared(address.clone()).map_err(connect)?;
            let endpoint = endpoint
                .connect_timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true)
                .tcp_nodelay(true);
            members.push(match &options.tls {
                Some(tls) => endpoint.tls_config(tls.config()).map_err(connect)?.connect_lazy(),
                None => endpoint.connect_lazy(),
            });
        }
        let (current, indexer_version) = (AtomicUsize::new(0), AtomicU32::new(0));
        let (tasks, seal) = (options.tasks.child(), OnceLock::new());
        Ok(Self { tasks, options, members, current, indexer_version, seal })
    }

    /// The member that is asked now, and its number.
    fn member(&self) -> (usize, Channel) {
        let at = self.current.load(Ordering::Relaxed) % self.members.len();
        (at, self.members[at].clone())
    }

    /// A member did not answer: the next one is asked from now on, unless somebody noticed before.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One call. A member that cannot be reached is left for the next; what may have been carried out is not sent
    /// again unless it is `harmless` to do it twice.
    async fn call<Q, A>(
        &self,
        what: &'static str,
        path: &'static str,
        request: Q,
        harmless: bool,
    ) -> Result<A, EngineError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut tries = self.members.len();
        loop {
            let (at, channel) = self.member();
            let call = unary(channel, path, request.clone());
            let answer = self.options.clock.timeout(CALL_TIMEOUT, call).await;
            let late = || Err(tonic::Status::deadline_exceeded("no answer in time"));
            let status = match answer.unwrap_or_else(late) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let elsewhere = matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
            );
            if elsewhere {
                self.leave(at);
            }
            tries -= 1;
            if !elsewhere || tries == 0 || !(harmless || was_not_sent(&status)) {
                let (code, reason) = (status.code() as i32, status.message().into());
                return Err(EngineError::Etcd { what, code, reason });
            }
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, EngineError> {
        self.call("read from", "/etcdserverpb.KV/Range", request, true).await
    }

    fn path(&self, key: &Key) -> Vec<u8> {
        format!("{}/{}/{}/{}", self.options.prefix, key.resource, key.namespace, key.name).into_bytes()
    }

    /// The key of an object, from the right: resources contain slashes, namespaces and names do not.
    fn key(&self, path: &[u8], interner: &mut Interner) -> Option<Key> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix(&*self.options.prefix)?.strip_prefix('/')?;
        let (path, name) = path.rsplit_once('/')?;
        let (resource, namespace) = path.rsplit_once('/')?;
        Some(Key { resource: interner.str(resource), namespace: interner.str(namespace), name: name.into() })
    }

    fn prefix(&self) -> Vec<u8> {
        format!("{}/", self.options.prefix).into_bytes()
    }

    /// The version of an object that etcd keeps; `None` if it is none.
    ///
    /// # Errors
    /// It is sealed and cannot be opened.
    fn seen(&self, kv: &KeyValue, interner: &mut Interner) -> Result<Option<Seen>, EngineError> {
        let Some(key) = self.key(&kv.key, interner) else { return Ok(None) };
        let Some((mut draft, attrs, mut indexer_version)) = decode_value(&kv.value, interner) else {
            tracing::error!(%key, "store: etcd holds something that Navarch did not write");
            return Ok(None);
        };
        let opened = self.seal.get().map(|seal| opened_draft(&**seal, &key, &draft.json)).transpose()?;
        if let Some(opened) = opened.flatten() {
            (draft, indexer_version) = (opened, NO_ATTRIBUTES);
        }
        let revision = kv.mod_revision as u64;
        Ok(Some(Seen::Put { key, revision, draft, attrs, indexer_version }))
    }

    /// Reads everything at one revision.
    async fn load(&self, feed: &Feed) -> Result<(), EngineError> {
        let (mut from, end) = (self.prefix(), prefix_end(&self.prefix()));
        let (mut revision, mut all) = (0, Vec::new());
        let mut interner = Interner::default();
        loop {
            let request = RangeRequest { key: from, range_end: end.clone(), limit: PAGE, revision };
            let page = self.range(request).await?;
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            for kv in &page.kvs {
                all.extend(self.seen(kv, &mut interner)?);
            }
            match page.kvs.last() {
                Some(last) if page.more => {
                    from = last.key.clone();
                    from.push(0);
                }
                _ => break,
            }
        }
        feed.replace(all, revision as u64);
        Ok(())
    }

    /// Follows changes until the stream ends; says how.
    async fn follow(&self, feed: &Feed, retry: &mut Backoff) -> Result<Ended, EngineError> {
        use futures::StreamExt;
        let refused = |status: tonic::Status| EngineError::Etcd {
            what: "watch",
            code: status.code() as i32,
            reason: status.message().into(),
        };
        let create = WatchCreateRequest {
            key: self.prefix(),
            range_end: prefix_end(&self.prefix()),
            start_revision: feed.revision() as i64 + 1,
        };
        let create = WatchRequest { create: Some(create) };
        // The stream of requests stays open: its end would end the watch.
        let requests = futures::stream::iter([create]).chain(futures::stream::pending());
        let (at, channel) = self.member();
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
        grpc.ready().await.map_err(connect)?;
        let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answer = grpc.streaming(tonic::Request::new(requests), path, codec).await;
        let mut answers = answer.inspect_err(|_| self.leave(at)).map_err(refused)?.into_inner();
        let mut interner = Interner::default();
        while let Some(answer) = answers.message().await.inspect_err(|_| self.leave(at)).map_err(refused)? {
            if answer.compact_revision > 0 {
                return Ok(Ended::Compacted);
            }
            if answer.canceled {
                let reason = answer.cancel_reason;
                return Err(EngineError::Etcd { what: "watch", code: 0, reason });
            }
            retry.reset();
            self.pass_on(feed, &answer, &mut interner)?;
        }
        Ok(Ended::Broken)
    }

    fn pass_on(
        &self,
        feed: &Feed,
        answer: &WatchResponse,
        interner: &mut Interner,
    ) -> Result<(), EngineError> {
        let Some(last) = answer.events.last().and_then(|event| event.kv.as_ref()) else { return Ok(()) };
        let reached = last.mod_revision as u64;
        let mut changes = Vec::with_capacity(answer.events.len());
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            if event.kind == EventType::Delete as i32 {
                let revision = kv.mod_revision as u64;
                changes.extend(self.key(&kv.key, interner).map(|key| Seen::Delete { key, revision }));
            } else {
                changes.extend(self.seen(kv, interner)?);
            }
        }
        feed.changes(changes, reached);
        Ok(())
    }

    async fn follow_for_ever(self: Arc<Self>, feed: Feed) {
        let _guard = feed.guard();
        let mut retry = Backoff::doubling(RETRY.0, RETRY.1);
        loop {
            let ended = match self.follow(&feed, &mut retry).await {
                Ok(Ended::Compacted) => self.load(&feed).await,
                Ok(Ended::Broken) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "store: lost etcd, trying again");
            }
            self.options.clock.sleep(retry.next_plain()).await;
        }
    }

    /// Has etcd forget changes that are older than history.
    async fn compact_for_ever(self: Arc<Self>, feed: Feed) {
        let mut old = 0;
        loop {
            self.options.clock.sleep(self.options.history).await;
            if old > 0 {
                let request = wire::CompactionRequest { revision: old as i64 };
                let done: Result<wire::CompactionResponse, _> =
                    self.call("compact", "/etcdserverpb.KV/Compact", request, false).await;
                // Another server may have been first.
                if let Err(error) = done {
                    tracing::debug!(%error, "store: etcd did not compact");
                }
            }
            old = feed.revision();
        }
    }

    fn request(&self, write: &mut Write) -> (Option<Compare>, RequestOp) {
        let key = self.path(&write.key);
        let compare = |result: CompareResult, revision: u64| Compare {
            result: result as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            mod_revision: Some(revision as i64),
        };
        let condition = match write.expect {
            Expect::Absent => Some(compare(CompareResult::Equal, 0)),
            Expect::Revision(revision) => Some(compare(CompareResult::Equal, revision)),
            Expect::Any if matches!(write.op, Op::Delete) => Some(compare(CompareResult::Greater, 0)),
            Expect::Any => None,
        };
        let request = match &mut write.op {
            Op::Delete => Request::Delete(DeleteRangeRequest { key }),
            Op::Put(draft, attrs) => {
                let version = self.indexer_version.load(Ordering::Relaxed);
                let sealed = self.seal.get().and_then(|seal| sealed_draft(&**seal, &write.key, draft));
                attrs.sort();
                let value = match sealed {
                    Some(sealed) => encode_value(&sealed, &Attrs::default(), NO_ATTRIBUTES),
                    None => encode_value(draft, attrs, version),
                };
                Request::Put(PutRequest { key, value })
            }
        };
        (condition, RequestOp { request: Some(request) })
    }

    async fn try_commit(&self, mut writes: Vec<Write>) -> Result<u64, CommitError> {
        let mut txn = TxnRequest::default();
        for write in &mut writes {
            let (condition, request) = self.request(write);
            txn.compare.extend(condition);
            txn.success.push(request);
            let key = self.path(&write.key);
            let range = RangeRequest { key, ..RangeRequest::default() };
            txn.failure.push(RequestOp { request: Some(Request::Range(range)) });
        }
        let answer: TxnResponse =
            self.call("write to", "/etcdserverpb.KV/Txn", txn, false).await.map_err(Arc::new)?;
        if answer.succeeded {
            return Ok(answer.header.map_or(0, |header| header.revision as u64));
        }
        for (write, response) in writes.iter().zip(answer.responses) {
            let Some(Response::Range(found)) = response.response else { continue };
            self.explain(write, found.kvs.first())?;
        }
        let reason = "a transaction failed though its conditions hold".into();
        Err(Arc::new(EngineError::Etcd { what: "write to", code: 0, reason }).into())
    }

    /// Says which condition of a write does not hold, if one does not.
    fn explain(&self, write: &Write, found: Option<&KeyValue>) -> Result<(), CommitError> {
        let mut interner = Interner::default();
        let found = found.map(|kv| self.seen(kv, &mut interner)).transpose().map_err(Arc::new)?;
        let object = match found.flatten() {
            Some(Seen::Put { key, revision, draft, attrs, .. }) => {
                Some(Arc::new(Object::new(key, revision, &draft, attrs)))
            }
            _ => None,
        };
        let delete = matches!(write.op, Op::Delete);
        crate::writer::check(&write.key, write.expect, delete, object.as_ref())
    }
}

impl EtcdTls {
    fn config(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
    grpc.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await;
    Ok(answer?.into_inner())
}

/// Whether a call failed before anything could be sent: there was no connection.
fn was_not_sent(status: &tonic::Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

fn connect(error: tonic::transport::Error) -> EngineError {
    EngineError::Connect(Arc::new(error))
}

impl Remote for Etcd {
    fn start(self: Arc<Self>, feed: Feed) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(async move {
            self.indexer_version.store(feed.indexer_version(), Ordering::Relaxed);
            if let Some(seal) = feed.seal() {
                self.seal.get_or_init(|| seal);
            }
            let clock = &self.options.clock;
            let (mut retry, began) = (Backoff::doubling(RETRY.0, RETRY.1), clock.monotonic());
            while let Err(error) = self.load(&feed).await {
                // etcd may be starting, too.
                let unreachable = matches!(error, EngineError::Connect(_) | EngineError::Etcd { .. });
                if !unreachable || clock.monotonic().saturating_sub(began) > CALL_TIMEOUT {
                    return Err(error);
                }
                clock.sleep(retry.next_plain()).await;
            }
            let tasks = self.tasks.clone();
            tasks.spawn("store-etcd-compact", Arc::clone(&self).compact_for_ever(feed.clone()));
            tasks.spawn("store-etcd-follow", self.follow_for_ever(feed));
            Ok(())
        })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<u64, CommitError>> {
        Box::pin(self.try_commit(writes))
    }

    fn latest(&self) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            // A write of our own: its revision comes back by the watch even if the changes before it
            // were made outside of our prefix.
            let key = format!("{}/.latest", self.options.prefix).into_bytes();
            let range = RangeRequest { key, ..RangeRequest::default() };
            let answer = self.range(range).await?;
            Ok(answer.header.map_or(0, |header| header.revision as u64))
        })
    }

    fn touch(&self) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            let key = format!("{}/.latest", self.options.prefix).into_bytes();
            let put = Request::Put(PutRequest { key, value: Vec::new() });
            let success = vec![RequestOp { request: Some(put) }];
            let txn = TxnRequest { success, ..TxnRequest::default() };
            let answer: TxnResponse = self.call("write to", "/etcdserverpb.KV/Txn", txn, true).await?;
            Ok(answer.header.map_or(0, |header| header.revision as u64))
        })
    }

    fn stop(&self) {
        self.tasks.cancel_token().cancel();
    }
}

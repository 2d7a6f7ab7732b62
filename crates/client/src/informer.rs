//! Keeps a cache in step with the server: list, watch, resume, relist; tells handlers what changed.
//!
//! Must not know what its readers do with the objects.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use api::wire::Wire;
use base::{Backoff, Cancel, Clock, Rng, Tasks};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::cache::{Erased, Objects, Shared};
use crate::client::{List, ListOptions, WatchOptions};
use crate::{Cache, Change, Client, ClientError, Dynamic, Kind, Meta, Partial, ResourceRef};
use crate::{WatchEvent, WatchStream};

/// First and longest pause between tries, as upstream's reflector.
const BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(200), Duration::from_secs(30)).with_jitter(0.5);
/// A watch ends after this many seconds, up to twice as long, so that servers can spread load.
const WATCH_SECONDS: u64 = 300;
/// A watch that ends sooner counts as a failure: no hot loop against a server that hangs up.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// Which objects of a resource an informer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Empty = all namespaces.
    pub namespace: String,
    /// A label selector.
    pub labels: String,
    /// A field selector.
    pub fields: String,
    /// Ask the server for metadata only.
    pub metadata_only: bool,
}

type ChangeFn = Box<dyn Fn(&Change<dyn Erased>) + Send + Sync>;

/// True from some moment on. Wakes those who wait in the order they came: tokio's `watch` wakes them at random, and a
/// simulation could not repeat that.
#[derive(Default)]
struct Synced {
    done: AtomicBool,
    wake: Notify,
}

impl Synced {
    fn set(&self) {
        self.done.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    fn is_set(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        // Made before the look: a notification in between is not missed.
        let woken = self.wake.notified();
        if !self.is_set() {
            woken.await;
        }
    }
}

/// What an informer and its reflector share; it does not know the type of the objects.
struct Feed {
    resource: ResourceRef,
    scope: Scope,
    objects: Objects,
    handlers: Mutex<Vec<ChangeFn>>,
    synced: Synced,
    changed: watch::Sender<u64>,
    cancel: Cancel,
}

impl Feed {
    fn apply(&self, update: impl FnOnce(&Objects) -> Vec<Change<dyn Erased>>) {
        let handlers = self.handlers.lock();
        let changes = update(&self.objects);
        for change in &changes {
            for handler in handlers.iter() {
                handler(change);
            }
        }
        drop(handlers);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// One resource kept in a cache.
pub struct Informer<K> {
    feed: Arc<Feed>,
    cache: Cache<K>,
}

impl<K: Meta> Informer<K> {
    /// An informer that nothing feeds yet.
    pub fn new(resource: ResourceRef, scope: Scope, cancel: Cancel) -> Self {
        let cache = Cache::new();
        let feed = Feed {
            resource,
            scope,
            objects: cache.objects().clone(),
            handlers: Mutex::default(),
            synced: Synced::default(),
            changed: watch::Sender::new(0),
            cancel,
        };
        Informer { feed: Arc::new(feed), cache }
    }

    /// The resource.
    pub fn resource(&self) -> &ResourceRef {
        &self.feed.resource
    }

    /// The cache; complete once `synced`.
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// Calls `handler` for every object there is (as added) and for every later change, in order. It runs on
    /// the informer's task: it must be quick, must not block, and must not add handlers to this informer.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.feed.handlers.lock();
        for object in self.cache.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(move |change| handler(&change.typed())));
    }

    /// Changes as a stream, beginning with every object there is. The reader must keep up: nothing is dropped,
    /// so what it leaves unread stays in memory.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.on_change(move |change| {
            let _ = sender.send(change.clone());
        });
        receiver
    }

    /// Ticks after each batch of changes: for readers that only look at the cache.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.feed.changed.subscribe()
    }

    /// True once the first list is in the cache.
    pub fn is_synced(&self) -> bool {
        self.feed.synced.is_set()
    }

    /// Waits for the first list.
    pub async fn synced(&self) {
        self.feed.synced.wait().await;
    }

    /// Stops watching; the cache keeps its last content.
    pub fn stop(&self) {
        self.feed.cancel.cancel();
    }
}

/// JSON text as it came, to be read when its type is at hand.
struct Text(Vec<u8>);

impl Wire for Text {
    fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Text(text.to_vec()))
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(self.0.clone())
    }
}

type ReadFn = fn(&[u8]) -> Result<Box<dyn Erased>, serde_json::Error>;

fn read<K: Meta>(text: &[u8]) -> Result<Box<dyn Erased>, serde_json::Error> {
    Ok(Box::new(K::from_json(text)?))
}

/// Feeds one informer.
struct Reflector {
    informer: Arc<Feed>,
    read: ReadFn,
    client: Client,
    clock: Clock,
    rng: Rng,
    /// Where to resume; empty = begin with the current state.
    revision: String,
    watch_list: bool,
}

impl Reflector {
    async fn run(mut self) {
        let mut backoff = BACKOFF;
        loop {
            let began = self.clock.monotonic();
            let result = self.session().await;
            let lasted = self.clock.monotonic().saturating_sub(began);
            let resource = &self.informer.resource.gvr;
            match result {
                Ok(()) if lasted >= SHORT_WATCH => {
                    backoff.reset();
                    continue;
                }
                Ok(()) => {}
                Err(error) if error.is_expired() => {
                    tracing::debug!(%resource, "watch expired; listing again");
                    self.revision.clear();
                }
                Err(error) => {
                    if lasted >= SHORT_WATCH {
                        backoff.reset();
                    }
                    tracing::debug!(%resource, %error, "watch failed; trying again");
                    if base::mutated("watch-resumes-late") {
                        // Going on from a revision that was never seen.
                        let seen = self.revision.parse::<u64>().unwrap_or(0);
                        self.revision = (seen + 10).to_string();
                    }
                }
            }
            self.clock.sleep(backoff.next_delay(&self.rng)).await;
        }
    }

    /// One watch, preceded by the current state when there is nothing to resume from.
    async fn session(&mut self) -> Result<(), ClientError> {
        if !self.revision.is_empty() {
            let stream = self.open(false).await?;
            return self.follow(stream).await;
        }
        if self.watch_list {
            match self.open(true).await {
                Ok(mut stream) => {
                    if let Err(error) = self.initial(&mut stream).await {
                        // The server may know the option and still not be able to serve it: list next time.
                        self.watch_list &= !matches!(error, ClientError::Api(_));
                        return Err(error);
                    }
                    return self.follow(stream).await;
                }
                Err(ClientError::Api(error)) if matches!(error.code, 400 | 422) => self.watch_list = false,
                Err(error) => return Err(error),
            }
        }
        self.list().await?;
        let stream = self.open(false).await?;
        self.follow(stream).await
    }

    async fn open(&self, initial_events: bool) -> Result<WatchStream<Text>, ClientError> {
        let scope = &self.informer.scope;
        let seconds = WATCH_SECONDS + self.rng.below(WATCH_SECONDS);
        let options = WatchOptions {
            labels: scope.labels.clone(),
            fields: scope.fields.clone(),
            resource_version: self.revision.clone(),
            bookmarks: true,
            initial_events,
            timeout_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            metadata_only: scope.metadata_only,
        };
        self.client.watch_at(&self.informer.resource.gvr, &scope.namespace, &options).await
    }

    async fn list(&mut self) -> Result<(), ClientError> {
        let scope = &self.informer.scope;
        let options = ListOptions {
            labels: scope.labels.clone(),
            fields: scope.fields.clone(),
            ..ListOptions::default()
        };
        let gvr = &self.informer.resource.gvr;
        let list: List<Text> =
            self.client.list_at(gvr, &scope.namespace, &options, scope.metadata_only).await?;
        let objects = list.items.iter().filter_map(|text| self.decode(text)).collect();
        self.replace(objects, list.resource_version);
        Ok(())
    }

    async fn initial(&mut self, stream: &mut WatchStream<Text>) -> Result<(), ClientError> {
        let mut objects = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event? {
                WatchEvent::Added(text) | WatchEvent::Modified(text) => {
                    objects.extend(self.decode(&text).map(|object| (object.key(), object)));
                }
                WatchEvent::Deleted(text) => {
                    self.decode(&text).and_then(|object| objects.remove(&object.key()));
                }
                WatchEvent::Bookmark { resource_version, initial_events_end: true } => {
                    self.replace(objects.into_values().collect(), resource_version);
                    return Ok(());
                }
                WatchEvent::Bookmark { .. } => {}
            }
        }
        // A server that ends the stream early may not know the option: list next time.
        self.watch_list = false;
        Err(ClientError::transport("reading the initial events", "the watch ended"))
    }

    /// An object; `None` for one that cannot be read: one bad object must not hide the rest.
    fn decode(&self, text: &Text) -> Option<Shared> {
        match (self.read)(&text.0) {
            Ok(mut object) => {
                self.trim(object.metadata_mut());
                Some(object.into())
            }
            Err(error) => {
                let resource = &self.informer.resource.gvr;
                tracing::warn!(%resource, %error, "an object cannot be read");
                None
            }
        }
    }

    fn replace(&mut self, objects: Vec<Shared>, resource_version: String) {
        let revision = resource_version.parse().unwrap_or(0);
        self.revision = resource_version;
        self.informer.apply(|cache| cache.replace(objects, revision));
        self.informer.synced.set();
    }

    async fn follow(&mut self, mut stream: WatchStream<Text>) -> Result<(), ClientError> {
        while let Some(event) = stream.next().await {
            match event {
                Ok(WatchEvent::Added(text) | WatchEvent::Modified(text)) => {
                    let Some(object) = self.decode(&text) else { continue };
                    self.note(object.metadata().resource_version.as_deref());
                    self.informer.apply(|cache| cache.put(object).into_iter().collect());
                }
                Ok(WatchEvent::Deleted(text)) => {
                    let Some(object) = self.decode(&text) else { continue };
                    self.note(object.metadata().resource_version.as_deref());
                    let (key, revision) = (object.key(), object.revision());
                    if base::mutated("lose-deletions") && self.informer.resource.kind == "Pod" {
                        continue;
                    }
                    self.informer.apply(|cache| cache.remove(&key, revision).into_iter().collect());
                }
                Ok(WatchEvent::Bookmark { resource_version, .. }) => {
                    self.note(Some(&resource_version));
                    self.informer.objects.advance(resource_version.parse().unwrap_or(0));
                }
                Err(error @ ClientError::Decode { .. }) => {
                    tracing::warn!(%error, "an event of a watch cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// managedFields are half of many objects and no reader of a cache needs them; the server keeps its own
    /// when an update comes without. Metadata-only caches serve the garbage collector, which needs no labels.
    fn trim(&self, meta: &mut ObjectMeta) {
        meta.managed_fields = None;
        if self.informer.scope.metadata_only {
            meta.labels = None;
            meta.annotations = None;
        }
    }

    fn note(&mut self, resource_version: Option<&str>) {
        if let Some(text) = resource_version.filter(|text| !text.is_empty()) {
            self.revision.clear();
            self.revision.push_str(text);
        }
    }
}

type Slot = (TypeId, ResourceRef, Scope);

struct Informers {
    client: Client,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    informers: Mutex<BTreeMap<Slot, Arc<dyn Any + Send + Sync>>>,
}

/// The informers of a process: one a resource and scope, started when first asked for; cheap to clone.
#[derive(Clone)]
pub struct SharedInformers(Arc<Informers>);

impl SharedInformers {
    /// None yet; they will list and watch with `client`.
    pub fn new(client: Client, clock: Clock, rng: Rng, tasks: Tasks) -> Self {
        SharedInformers(Arc::new(Informers { client, clock, rng, tasks, informers: Mutex::default() }))
    }

    /// The informer of all objects of a built-in type.
    pub fn of<K: Kind>(&self) -> Arc<Informer<K>> {
        self.scoped(Scope::default())
    }

    /// The informer of some objects of a built-in type.
    pub fn scoped<K: Kind>(&self, scope: Scope) -> Arc<Informer<K>> {
        self.any(ResourceRef::of::<K>(), scope)
    }

    /// The metadata of all objects of a resource, without labels and annotations.
    pub fn metadata(&self, resource: ResourceRef) -> Arc<Informer<Partial>> {
        self.any(resource, Scope { metadata_only: true, ..Scope::default() })
    }

    /// All objects of a resource, untyped.
    pub fn dynamic(&self, resource: ResourceRef) -> Arc<Informer<Dynamic>> {
        self.any(resource, Scope::default())
    }

    /// The informer of a resource and scope, read as `K`.
    pub fn any<K: Meta>(&self, resource: ResourceRef, scope: Scope) -> Arc<Informer<K>> {
        let shared = &self.0;
        let slot = (TypeId::of::<K>(), resource.clone(), scope.clone());
        let mut informers = shared.informers.lock();
        if let Some(known) = informers.get(&slot) {
            let known = known.clone().downcast::<Informer<K>>();
            return known.unwrap_or_else(|_| unreachable!("the slot carries the type"));
        }
        let cancel = shared.tasks.cancel_token().child();
        let informer = Arc::new(Informer::new(resource, scope, cancel.clone()));
        let reflector = Reflector {
            informer: informer.feed.clone(),
            read: read::<K>,
            client: shared.client.clone(),
            clock: shared.clock.clone(),
            rng: shared.rng.clone(),
            revision: String::new(),
            watch_list: true,
        };
        shared.tasks.spawn("informer", async move {
            cancel.run(reflector.run()).await;
        });
        informers.insert(slot, informer.clone());
        informer
    }

    /// Stops and forgets the metadata informer of a resource (its definition was deleted).
    pub fn forget_metadata(&self, resource: &ResourceRef) {
        let scope = Scope { metadata_only: true, ..Scope::default() };
        let slot = (TypeId::of::<Partial>(), resource.clone(), scope);
        if let Some(informer) = self.0.informers.lock().remove(&slot)
            && let Ok(informer) = informer.downcast::<Informer<Partial>>()
        {
            informer.stop();
        }
    }
}

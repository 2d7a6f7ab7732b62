//! What every controller is given, and the way it declares what it watches.
//!
//! Must not know any single controller.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::ServiceAccount;
use api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use api::labels::Selector;
use base::{Clock, Rng, Tasks};
use client::SharedInformers;
use client::cache::Probe;
use client::{
    Cache, Change, Client, Informer, Key, Kind, Meta, Queue, Reconcile, Recorder, ResourceRef, Runner, Scope,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Signs a token of a service account for a Secret of this name; `None` when it cannot.
pub type SignToken = Arc<dyn Fn(&ServiceAccount, &str) -> Option<String> + Send + Sync>;

/// Who signs the tokens of Secrets of type `kubernetes.io/service-account-token`.
#[derive(Clone)]
pub struct TokenSigner(pub SignToken);

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}

/// Settings of all controllers, with upstream's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CA bundle that `kube-root-ca.crt` publishes, PEM. Empty = do not publish.
    pub root_ca: String,
    /// The CA that signs certificate requests; absent = do not sign.
    pub signing: Option<base::pki::Identity>,
    /// Approve certificates of nodes' servers that name only the node, and none of these addresses; absent = leave
    /// them to people, as upstream does.
    pub approve_serving: Option<Vec<std::net::IpAddr>>,
    /// Services of type LoadBalancer get the nodes' addresses, except for these TCP ports, which are the nodes' own;
    /// absent = leave them to a cloud.
    pub node_balancer_reserved: Option<Vec<u16>>,
    /// How long signed certificates last at most.
    pub signing_duration: Duration,
    /// Ranges of pod addresses, such as `10.244.0.0/16`; empty = do not allocate.
    pub cluster_cidrs: Vec<String>,
    /// The prefix length of one node's range, IPv4 and IPv6.
    pub node_cidr_mask: (u8, u8),
    /// A node that says nothing for this long is unknown.
    pub node_grace: Duration,
    /// How often silence is looked for.
    pub node_period: Duration,
    /// Fills token Secrets; absent = they stay empty.
    pub token_signer: Option<TokenSigner>,
    /// Generated tokens of service accounts that were not used for this long are removed.
    pub token_clean_up: Duration,
    /// Finished pods kept before the oldest are removed; 0 = all.
    pub terminated_pods: usize,
    /// Controllers to run: names, `*` for all, `-name` to leave one out.
    pub controllers: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root_ca: String::new(),
            signing: None,
            approve_serving: None,
            node_balancer_reserved: None,
            signing_duration: Duration::from_secs(365 * 86_400),
            cluster_cidrs: Vec::new(),
            node_cidr_mask: (24, 64),
            node_grace: Duration::from_secs(50),
            node_period: Duration::from_secs(5),
            token_signer: None,
            token_clean_up: Duration::from_secs(365 * 86_400),
            terminated_pods: 12_500,
            controllers: vec!["*".to_owned()],
        }
    }
}

impl Config {
    /// True when the controller of this name is to run.
    pub fn enabled(&self, name: &str) -> bool {
        if self.controllers.iter().any(|entry| entry.strip_prefix('-') == Some(name)) {
            return false;
        }
        self.controllers.iter().any(|entry| entry == name || entry == "*")
    }
}

/// Gives the client of a service account of `kube-system`, by the account's name.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What a controller is made from; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Clients by service account.
    pub client_for: ClientFor,
    /// The caches all controllers share.
    pub informers: SharedInformers,
    /// Settings.
    pub config: Arc<Config>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Where the controller's tasks run.
    pub tasks: Tasks,
}

impl Context {
    /// A recorder whose events name `component` as their source.
    pub fn recorder(&self, account: &str, component: &str) -> Recorder {
        Recorder::new((self.client_for)(account), component, "", self.clock.clone(), &self.tasks)
    }

    /// Begins to set up a reconciling controller.
    pub fn setup(&self, account: &'static str, component: &'static str) -> Setup {
        Setup {
            context: self.clone(),
            account,
            component,
            queue: Queue::new(self.clock.clone()),
            probes: Vec::new(),
            synced: Mutex::default(),
        }
    }
}

/// A reconciling controller in the making: its queue, what it watches, what it waits for.
pub struct Setup {
    context: Context,
    account: &'static str,
    component: &'static str,
    /// The keys to reconcile.
    pub queue: Queue<Key>,
    probes: Vec<(ResourceRef, Arc<dyn Probe>)>,
    synced: Mutex<Vec<BoxFuture<'static, ()>>>,
}

impl Setup {
    /// Reads and writes this kind: the controller starts when its cache is complete, and a write counts as
    /// done only when the cache shows it.
    pub fn watch<K: Kind>(&mut self) -> Arc<Informer<K>> {
        let informer = self.read::<K>();
        self.probes.push((ResourceRef::of::<K>(), Arc::new(informer.cache().clone())));
        informer
    }

    /// Only reads this kind.
    pub fn read<K: Kind>(&mut self) -> Arc<Informer<K>> {
        self.read_any(ResourceRef::of::<K>(), Scope::default())
    }

    /// Only reads some objects of a resource, as `K`.
    pub fn read_any<K: Meta>(&mut self, resource: ResourceRef, scope: Scope) -> Arc<Informer<K>> {
        let informer = self.context.informers.any::<K>(resource, scope);
        let waiting = informer.clone();
        self.synced.lock().push(Box::pin(async move { waiting.synced().await }));
        informer
    }

    /// Every change of this kind enqueues the object itself.
    pub fn enqueue<K: Meta>(&self, informer: &Informer<K>) {
        let queue = self.queue.clone();
        informer.on_change(move |change| queue.add(Key::of(&**change.object())));
    }

    /// Every change of this kind enqueues the keys that `keys_of` names.
    pub fn map<K: Meta>(
        &self,
        informer: &Informer<K>,
        keys_of: impl Fn(&Change<K>) -> Vec<Key> + Send + Sync + 'static,
    ) {
        let queue = self.queue.clone();
        informer.on_change(move |change| keys_of(change).into_iter().for_each(|key| queue.add(key)));
    }

    /// Every change of a dependent enqueues its controller of kind `O`; a dependent without any enqueues the
    /// owners that `wanting` names.
    pub fn map_owner<O: Kind, K: Kind>(
        &self,
        informer: &Informer<K>,
        wanting: impl Fn(&K) -> Vec<Key> + Send + Sync + 'static,
    ) {
        self.map(informer, move |change| {
            let mut keys = Vec::new();
            for object in change.old().into_iter().chain([change.object()]) {
                match controller_of(&**object) {
                    Some(owner) if is_kind::<O>(owner) => {
                        keys.push(Key::new(object.namespace(), &owner.name))
                    }
                    Some(_) => {}
                    None => keys.extend(wanting(object)),
                }
            }
            keys.dedup();
            keys
        });
    }

    /// As `map_owner`; a dependent without a controller enqueues the owners whose selector matches its labels.
    pub fn map_claimed<O: Kind, K: Kind>(
        &self,
        owners: &Informer<O>,
        dependents: &Informer<K>,
        selector_of: impl Fn(&O) -> Option<Selector> + Send + Sync + 'static,
    ) {
        let owners = owners.cache().clone();
        self.map_owner::<O, K>(dependents, move |dependent| {
            let labels = dependent.meta().labels.as_ref().filter(|labels| !labels.is_empty());
            let Some(labels) = labels else { return Vec::new() };
            let wants = |owner: &Arc<O>| selector_of(owner).is_some_and(|selector| selector.matches(labels));
            let candidates = owners.namespace(dependent.namespace());
            candidates.iter().filter(|owner| wants(owner)).map(|owner| Key::of(&**owner)).collect()
        });
    }

    /// Starts `workers` once the caches are complete.
    pub fn start(self, controller: Arc<dyn Reconcile>, workers: usize) {
        let context = &self.context;
        let recorder = context.recorder(self.account, self.component);
        let client = (context.client_for)(self.account);
        let mut runner = Runner::new(self.component, client, recorder, self.queue, context.clock.clone());
        for (resource, probe) in self.probes {
            runner = runner.expect_in(resource, probe);
        }
        let tasks = context.tasks.clone();
        let synced = self.synced.into_inner();
        context.tasks.spawn("controller start", async move {
            futures::future::join_all(synced).await;
            runner.start(controller, workers, &tasks);
        });
    }
}

/// The owner reference marked as controller.
pub fn controller_of<K: Meta>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// True when a reference names the kind `O`, of any version.
pub fn is_kind<O: Kind>(owner: &OwnerReference) -> bool {
    owner.kind == O::KIND && owner.api_version.rsplit_once('/').map_or("", |(group, _)| group) == O::GROUP
}

/// The name of the index that finds objects without a controller, by namespace.
pub const ORPHANS: &str = "orphans";

/// Adds the index of objects without a controller.
pub fn index_orphans<K: Kind>(cache: &Cache<K>) {
    let orphan = |object: &K| match controller_of(object) {
        None => vec![object.namespace().to_owned()],
        Some(_) => Vec::new(),
    };
    cache.add_index(ORPHANS, Arc::new(orphan));
}

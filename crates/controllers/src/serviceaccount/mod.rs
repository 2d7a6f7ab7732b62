//! What every namespace is given: the `default` ServiceAccount and the `kube-root-ca.crt` ConfigMap. Watches
//! namespaces, ServiceAccounts and ConfigMaps. Also fills token Secrets, and removes those whose account is gone and
//! generated ones that nobody uses.

mod legacy;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, TokenSigner};

const WORKERS: usize = 2;

struct Accounts {
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
}

impl Reconcile for Accounts {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let known = self.accounts.get(&key.name, plan::ACCOUNT).is_some();
        Ok(plan::account(self.namespaces.get_key(key).as_deref(), known))
    }
}

struct RootCa {
    namespaces: Cache<Namespace>,
    maps: Cache<ConfigMap>,
    bundle: String,
}

impl Reconcile for RootCa {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let known = self.maps.get(&key.name, plan::ROOT_CA);
        Ok(plan::root_ca(self.namespaces.get_key(key).as_deref(), known.as_deref(), &self.bundle))
    }
}

struct Tokens {
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
    root_ca: String,
    signer: Option<TokenSigner>,
}

impl Reconcile for Tokens {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(secret) = self.secrets.get_key(key) else { return Ok(Plan::none()) };
        let account =
            secret.annotation(plan::ACCOUNT_NAME).and_then(|name| self.accounts.get(&key.namespace, name));
        let sign =
            |account: &ServiceAccount, name: &str| self.signer.as_ref().and_then(|s| (s.0)(account, name));
        Ok(plan::token(&secret, account.as_deref(), &self.root_ca, &sign))
    }
}

struct Legacy {
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
    pods: Cache<Pod>,
    maps: Cache<ConfigMap>,
    limit: Duration,
}

impl Reconcile for Legacy {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(secret) = self.secrets.get_key(key) else { return Ok(Plan::none()) };
        let named = secret.annotation(plan::ACCOUNT_NAME);
        let account = named.and_then(|name| self.accounts.get(&key.namespace, name));
        let tracking = self.maps.get("kube-system", legacy::TRACKING);
        let data = tracking.as_ref().and_then(|map| map.data.as_ref());
        let around = legacy::Around {
            account: account.as_deref(),
            since: data.and_then(|data| data.get(legacy::SINCE)).map(String::as_str),
            used: &|| {
                let pods = self.pods.namespace(&key.namespace);
                pods.iter().any(|pod| legacy::secrets_of(pod).contains(&*key.name))
            },
            limit: self.limit,
        };
        Ok(legacy::plan(&secret, &around, now))
    }
}

/// Starts the controller that removes generated tokens that nobody uses.
pub fn start_legacy(context: &Context) {
    let account = "legacy-service-account-token-cleaner";
    let mut setup = context.setup(account, account);
    let secrets = setup.watch::<Secret>();
    setup.map(&secrets, |change| {
        let secret = change.object();
        if plan::is_token(secret) { vec![Key::of(&**secret)] } else { Vec::new() }
    });
    let controller = Legacy {
        secrets: secrets.cache().clone(),
        accounts: setup.read::<ServiceAccount>().cache().clone(),
        pods: setup.read::<Pod>().cache().clone(),
        maps: setup.read::<ConfigMap>().cache().clone(),
        limit: context.config.token_clean_up,
    };
    setup.start(Arc::new(controller), 1);
}

/// Starts the controller of `default` accounts.
pub fn start_accounts(context: &Context) {
    let mut setup = context.setup("service-account-controller", "service-account-controller");
    let namespaces = setup.read::<Namespace>();
    let accounts = setup.watch::<ServiceAccount>();
    setup.enqueue(&namespaces);
    setup.map(&accounts, |change| match change {
        Change::Deleted(account) if account.name() == plan::ACCOUNT => {
            vec![Key::new("", account.namespace())]
        }
        _ => Vec::new(),
    });
    let controller = Accounts { namespaces: namespaces.cache().clone(), accounts: accounts.cache().clone() };
    setup.start(Arc::new(controller), WORKERS);
}

/// Starts the publisher of the cluster's CA, if there is one to publish.
pub fn start_root_ca(context: &Context) {
    if context.config.root_ca.is_empty() {
        return;
    }
    let mut setup = context.setup("root-ca-cert-publisher", "root-ca-cert-publisher");
    let namespaces = setup.read::<Namespace>();
    let maps = setup.watch::<ConfigMap>();
    setup.enqueue(&namespaces);
    setup.map(&maps, |change| {
        let map = change.object();
        if map.name() == plan::ROOT_CA { vec![Key::new("", map.namespace())] } else { Vec::new() }
    });
    let bundle = context.config.root_ca.clone();
    let controller = RootCa { namespaces: namespaces.cache().clone(), maps: maps.cache().clone(), bundle };
    setup.start(Arc::new(controller), WORKERS);
}

/// Starts the controller that fills token Secrets and removes those without an account.
pub fn start_tokens(context: &Context) {
    let mut setup = context.setup(crate::WATCHER, "tokens-controller");
    let secrets = setup.watch::<Secret>();
    let accounts = setup.read::<ServiceAccount>();
    setup.map(&secrets, |change| {
        let secret = change.object();
        if plan::is_token(secret) { vec![Key::of(&**secret)] } else { Vec::new() }
    });
    let all = secrets.cache().clone();
    setup.map(&accounts, move |change| {
        let account = change.object();
        let of = |secret: &Arc<Secret>| {
            plan::is_token(secret) && secret.annotation(plan::ACCOUNT_NAME) == Some(account.name())
        };
        let secrets = all.namespace(account.namespace());
        secrets.iter().filter(|secret| of(secret)).map(|secret| Key::of(&**secret)).collect()
    });
    let controller = Tokens {
        secrets: secrets.cache().clone(),
        accounts: accounts.cache().clone(),
        root_ca: context.config.root_ca.clone(),
        signer: context.config.token_signer.clone(),
    };
    setup.start(Arc::new(controller), WORKERS);
}

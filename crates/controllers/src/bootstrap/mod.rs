//! Bootstrap tokens: signs the `cluster-info` ConfigMap with each token that may, so that a joining node can tell
//! the real cluster from a false one, and removes tokens whose time is over. Watches token Secrets and the map.

mod plan;

use std::sync::Arc;

use api::k8s::api::core::v1::{ConfigMap, Secret};
use client::{Cache, Key, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::Context;

struct Signer {
    maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
}

impl Reconcile for Signer {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(map) = self.maps.get_key(key) else { return Ok(Plan::none()) };
        Ok(plan::sign(&map, &self.secrets.namespace(plan::TOKEN_NAMESPACE), now))
    }
}

/// Starts the signer of `cluster-info`.
pub fn start_signer(context: &Context) {
    let mut setup = context.setup("bootstrap-signer", "bootstrap-signer-controller");
    let maps = setup.watch::<ConfigMap>();
    let secrets = setup.read::<Secret>();
    let info = || Key::new(plan::INFO_NAMESPACE, plan::INFO_NAME);
    setup.map(&maps, move |change| {
        let key = Key::of(&**change.object());
        if key == info() { vec![key] } else { Vec::new() }
    });
    setup
        .map(&secrets, move |change| if plan::is_token(change.object()) { vec![info()] } else { Vec::new() });
    let controller = Signer { maps: maps.cache().clone(), secrets: secrets.cache().clone() };
    setup.start(Arc::new(controller), 1);
}

struct Cleaner {
    secrets: Cache<Secret>,
}

impl Reconcile for Cleaner {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        Ok(self.secrets.get_key(key).map(|secret| plan::clean(&secret, now)).unwrap_or_default())
    }
}

/// Starts the controller that removes expired tokens.
pub fn start_cleaner(context: &Context) {
    let mut setup = context.setup("token-cleaner", "token-cleaner-controller");
    let secrets = setup.watch::<Secret>();
    setup.map(&secrets, |change| {
        let secret = change.object();
        if plan::is_token(secret) { vec![Key::of(&**secret)] } else { Vec::new() }
    });
    setup.start(Arc::new(Cleaner { secrets: secrets.cache().clone() }), 1);
}

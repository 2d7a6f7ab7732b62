//! A cluster on one thread in virtual time: store, API server, controllers, scheduler, machines; each can end at any
//! moment and begin again with nothing in mind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::UserInfo;
use apiserver::{Rows, Server};
use base::{Clock, Rng, Tasks};
use client::{Client, SharedInformers};
use parking_lot::Mutex;
use store::{Engine, Options, Store};

use crate::door::Ways;
use crate::machine::{self, Agent, Hardware};
use crate::tap::{Log, Tap, Watcher};

/// When every world begins.
const ORIGIN: &str = "2030-01-01T00:00:00Z";
/// Controllers that have nothing to do in a world without certificates, volumes and devices.
const IDLE: &[&str] = &[
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-cleaner-controller",
    "navarch-service-balancer-controller",
    "navarch-serving-approver-controller",
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "local-volume-provisioner",
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "persistentvolumeclaim-protection-controller",
    "persistentvolume-protection-controller",
    "resourceclaim-controller",
    "ephemeral-volume-controller",
    "horizontal-pod-autoscaler-controller",
    "replicationcontroller-controller",
    "endpointslice-mirroring-controller",
    "node-ipam-controller",
];

/// One machine of a world.
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// CPU in thousandths, and pods.
    pub size: (u64, u64),
    /// What runs.
    pub hardware: Arc<Mutex<Hardware>>,
    agent: Option<Tasks>,
    /// Will never come back.
    pub gone: bool,
}

/// The cluster.
pub struct World {
    /// Virtual time.
    pub clock: Clock,
    /// Randomness of faults and components.
    pub rng: Rng,
    /// All tasks.
    pub tasks: Tasks,
    /// The store.
    pub store: Store,
    /// The ways of all components.
    pub ways: Ways,
    /// Everything that was committed.
    pub log: Arc<Mutex<Log>>,
    /// A client without faults, allowed everything.
    pub admin: Client,
    /// The machines.
    pub machines: Vec<Machine>,
    /// Pods misbehave.
    pub wild: Arc<AtomicBool>,
    controllers: Option<Tasks>,
    scheduler: Option<Tasks>,
}

impl World {
    /// An API server with what every cluster has from the start, and nothing else.
    pub async fn new<W: Watcher + 'static>(seed: u64, watcher: Arc<Mutex<W>>, print: bool) -> World {
        let clock = Clock::starting_at(ORIGIN.parse().expect("a timestamp"));
        let (rng, tasks) = (Rng::seeded(seed), Tasks::new());
        let rows = Rows::builtin();
        let log = Arc::new(Mutex::new(Log::printing(print)));
        let tap = Tap { log: log.clone(), watcher, clock: clock.clone() };
        let options = Options::new(rows.indexer(), clock.clone());
        let store = Store::open(Engine::Inline(Box::new(tap)), options).await.expect("nothing to load");
        let config = apiserver::Config { authorizers: vec!["AlwaysAllow".to_owned()], ..Default::default() };
        let server = Server::new(config, rows, store.clone(), clock.clone(), rng.clone(), tasks.clone());
        let server = server.expect("the settings are right");
        server.start().await.expect("an empty store takes everything");
        let ways = Ways::new(server, rng.clone(), clock.clone(), tasks.clone());
        // Nobody's way to the server is as good as the administrator's: it has no faults.
        let admin = ways.plain(UserInfo::component("admin", &["system:masters"]));
        World {
            clock,
            rng,
            tasks,
            store,
            ways,
            log,
            admin,
            machines: Vec::new(),
            wild: Arc::new(AtomicBool::new(false)),
            controllers: None,
            scheduler: None,
        }
    }

    /// Adds a machine and starts its agent.
    pub fn add_machine(&mut self, cpu: u64, pods: u64) {
        let name = format!("node-{}", self.machines.len());
        let hardware = Arc::new(Mutex::new(Hardware::default()));
        self.machines.push(Machine { name, size: (cpu, pods), hardware, agent: None, gone: false });
        self.start_agent(self.machines.len() - 1);
    }

    /// Starts an agent that does not run.
    pub fn start_agent(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        if machine.agent.is_some() || machine.gone {
            return;
        }
        let tasks = self.tasks.child();
        let user = UserInfo::component(&format!("system:node:{}", machine.name), &["system:nodes"]);
        let agent = Agent {
            name: machine.name.clone(),
            size: machine.size,
            zone: format!("zone-{}", number % 2),
            hardware: machine.hardware.clone(),
            client: self.ways.client(&machine.name, user),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            wild: self.wild.clone(),
        };
        machine::start(agent, &tasks);
        machine.agent = Some(tasks);
    }

    /// Ends an agent; what runs there goes on.
    pub fn stop_agent(&mut self, number: usize) {
        if let Some(tasks) = self.machines[number].agent.take() {
            tasks.cancel_token().cancel();
        }
    }

    /// Starts controllers that do not run.
    pub fn start_controllers(&mut self) {
        if self.controllers.is_some() {
            return;
        }
        let tasks = self.tasks.child();
        let ways = self.ways.clone();
        let client_for: controllers::ClientFor = Arc::new(move |account| {
            let user = match account {
                controllers::WATCHER => {
                    UserInfo::component("system:kube-controller-manager", &["system:masters"])
                }
                _ => UserInfo::service_account("kube-system", account),
            };
            ways.client("controllers", user)
        });
        let mut names = vec!["*".to_owned()];
        names.extend(IDLE.iter().map(|name| format!("-{name}")));
        let config = controllers::Config { controllers: names, ..controllers::Config::default() };
        controllers::start_all(client_for, config, self.clock.clone(), self.rng.clone(), &tasks);
        self.controllers = Some(tasks);
    }

    /// Ends the controllers.
    pub fn stop_controllers(&mut self) {
        if let Some(tasks) = self.controllers.take() {
            tasks.cancel_token().cancel();
        }
    }

    /// Starts a scheduler that does not run.
    pub fn start_scheduler(&mut self) {
        if self.scheduler.is_some() {
            return;
        }
        let tasks = self.tasks.child();
        let user = UserInfo::component("system:kube-scheduler", &["system:masters"]);
        let client = self.ways.client("scheduler", user);
        let informers =
            SharedInformers::new(client.clone(), self.clock.clone(), self.rng.clone(), tasks.clone());
        let setup = scheduler::Setup::default();
        let run =
            scheduler::run(client, informers, setup, self.clock.clone(), self.rng.clone(), tasks.clone());
        tasks.spawn("scheduler", run);
        self.scheduler = Some(tasks);
    }

    /// Ends the scheduler.
    pub fn stop_scheduler(&mut self) {
        if let Some(tasks) = self.scheduler.take() {
            tasks.cancel_token().cancel();
        }
    }

    /// Ends all faults: everybody runs and reaches everybody.
    pub fn heal(&mut self) {
        self.ways.heal();
        self.wild.store(false, Ordering::Relaxed);
        self.start_controllers();
        self.start_scheduler();
        (0..self.machines.len()).for_each(|number| self.start_agent(number));
    }

    /// Lets virtual time pass.
    pub async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// Ends everything.
    pub async fn end(self) {
        self.tasks.drain(Duration::from_secs(5)).await;
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use api::Gvr;
    use client::WriteOptions;
    use serde_json::{Value, json};

    use super::*;
    use crate::laws::Judge;

    fn definition() -> Value {
        let spec = json!({"type": "object", "properties": {"wheels": {"type": "integer"}}});
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        json!({"metadata": {"name": "toys.example.org"}, "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
    }

    #[tokio::test(start_paused = true)]
    async fn policies_are_held_against_built_in_and_custom_kinds() {
        let mut world = World::new(1, Arc::new(Mutex::new(Judge::default())), false).await;
        let make = async |group: &str, plural: &str, object: Value| {
            let (gvr, options) = (Gvr::new(group, "v1", plural), WriteOptions::default());
            let made = world.admin.create_at::<_, Value>(&gvr, "", &object, &options).await;
            made.expect("it is made");
        };
        make("apiextensions.k8s.io", "customresourcedefinitions", definition()).await;
        let rules = json!([
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]},
            {"apiGroups": ["example.org"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["toys"]}]);
        let validations =
            json!([{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.wheels > 'x'"}]);
        let policy = json!({"metadata": {"name": "p"},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": validations}});
        make("admissionregistration.k8s.io", "validatingadmissionpolicies", policy).await;
        world.start_controllers();
        world.pass(Duration::from_secs(30)).await;
        let gvr = Gvr::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
        let status = world.admin.get_at::<Value>(&gvr, "", "p").await.expect("the policy")["status"].clone();
        assert_eq!(status["observedGeneration"], 1);
        let warnings = status["typeChecking"]["expressionWarnings"].as_array().expect("warnings").clone();
        let about = |at: usize, kind: &str| {
            warnings[at]["warning"].as_str().is_some_and(|text| text.contains(&format!("Kind={kind}")))
        };
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(about(0, "Toy") && !about(0, "Deployment"), "a toy has no replicas");
        assert!(about(1, "Toy") && about(1, "Deployment"), "wheels are a number; a deployment has none");
        world.end().await;
    }
}

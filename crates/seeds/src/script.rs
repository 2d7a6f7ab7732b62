//! What users do in a seed: they make, change and remove things of all kinds, at random. Everything they do follows
//! from the seed and from what the API tells them.

use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use base::{Clock, Rng};
use client::{Client, ClientError, DeleteOptions, ListOptions, Patch, Propagation, WriteOptions};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::laws::Judge;
use crate::truth::text;

/// The namespaces of the load; the second may be deleted on the way, the third has a quota.
pub const SPACES: [&str; 3] = ["one", "doomed", "poor"];

/// A user at work.
#[derive(Clone)]
pub struct User {
    /// The client, without faults.
    pub client: Client,
    /// What is done, by the seed.
    pub rng: Rng,
    /// Virtual time.
    pub clock: Clock,
    /// Is told of what users break themselves.
    pub judge: Arc<Mutex<Judge>>,
}

fn gvr(kind: &str) -> Gvr {
    match kind {
        "deployments" | "statefulsets" | "daemonsets" | "replicasets" => Gvr::new("apps", "v1", kind),
        "jobs" | "cronjobs" => Gvr::new("batch", "v1", kind),
        "poddisruptionbudgets" => Gvr::new("policy", "v1", kind),
        "priorityclasses" => Gvr::new("scheduling.k8s.io", "v1", kind),
        _ => Gvr::new("", "v1", kind),
    }
}

/// What a user may do, with how often.
type Deed = (u64, &'static str);

const DEEDS: &[Deed] = &[
    (8, "make a deployment"),
    (4, "make a stateful set"),
    (2, "make a daemon set"),
    (6, "make a job"),
    (2, "make a cron job"),
    (6, "make a service"),
    (6, "make a budget"),
    (2, "make a pod"),
    (8, "scale"),
    (8, "roll"),
    (2, "pause"),
    (2, "undo"),
    (5, "delete a workload"),
    (4, "delete a pod"),
    (8, "evict"),
    (2, "drain"),
    (2, "uncordon"),
    (2, "suspend"),
    (1, "doom"),
];

impl User {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(0)
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.rng.below(from.len() as u64)).unwrap_or(0))
    }

    fn chance(&self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    async fn make(&self, kind: &str, space: &str, object: &Value) -> bool {
        let options = WriteOptions::default();
        match self.client.create_at::<_, Value>(&gvr(kind), space, object, &options).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(kind, space, %error, "not made");
                false
            }
        }
    }

    async fn list(&self, kind: &str, space: &str) -> Vec<Value> {
        let options = ListOptions::default();
        let listed = self.client.list_at::<Value>(&gvr(kind), space, &options, false).await;
        listed.map(|list| list.items).unwrap_or_default()
    }

    async fn patch(&self, kind: &str, object: &Value, patch: Value) {
        let meta = &object["metadata"];
        let (space, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let done = self.client.patch_at::<Value>(&gvr(kind), space, name, "", &Patch::Merge(patch)).await;
        if let Err(error) = done {
            tracing::debug!(kind, name, %error, "not patched");
        }
    }

    /// What there is before anything goes wrong.
    pub async fn prepare(&self) {
        for space in SPACES {
            self.make("namespaces", "", &json!({"metadata": {"name": space}})).await;
        }
        for (name, value) in [("low", 100), ("high", 1000)] {
            self.make("priorityclasses", "", &json!({"metadata": {"name": name}, "value": value})).await;
        }
        self.make(
            "resourcequotas",
            "poor",
            &json!({"metadata": {"name": "quota"}, "spec": {"hard": {"pods": "6"}}}),
        )
        .await;
    }

    /// Does `count` things within `time`.
    pub async fn work(&self, count: u64, time: Duration) {
        let total: u64 = DEEDS.iter().map(|deed| deed.0).sum();
        for number in 0..count {
            let mut roll = self.rng.below(total);
            let deed = DEEDS.iter().find(|(weight, _)| {
                let found = roll < *weight;
                roll = roll.saturating_sub(*weight);
                found
            });
            let deed = deed.map_or("scale", |deed| deed.1);
            // Something must be there first.
            let deed = if number < 2 { ["make a deployment", "make a job"][number as usize] } else { deed };
            tracing::debug!(deed, "a user acts");
            self.act(deed).await;
            let share = u64::try_from(time.as_millis()).unwrap_or(0) * 2 / count.max(1);
            self.clock.sleep(Duration::from_millis(self.rng.below(share.max(1)))).await;
        }
    }

    fn space(&self) -> &'static str {
        match self.rng.below(10) {
            0..=6 => SPACES[0],
            7..=8 => SPACES[1],
            _ => SPACES[2],
        }
    }

    async fn act(&self, deed: &str) {
        let space = self.space();
        match deed {
            "make a deployment" => self.deployment(space).await,
            "make a stateful set" => self.stateful_set(space).await,
            "make a daemon set" => self.daemon_set().await,
            "make a job" => self.job(space).await,
            "make a cron job" => self.cron_job(space).await,
            "make a service" => self.service(space).await,
            "make a budget" => self.budget(space).await,
            "make a pod" => self.pod(space).await,
            "scale" => self.scale(space).await,
            "roll" => self.roll(space).await,
            "pause" => self.pause(space).await,
            "undo" => self.undo(space).await,
            "delete a workload" => self.delete_workload(space).await,
            "delete a pod" => self.delete_pod(space).await,
            "evict" => self.evict(space).await,
            "drain" => self.drain().await,
            "uncordon" => self.uncordon().await,
            "suspend" => self.suspend(space).await,
            _ => self.doom().await,
        }
    }

    /// Pods' template of an app.
    fn template(&self, app: &str, job: bool) -> Value {
        let cpu = [100, 200, 500, 1000][self.rng.below(4) as usize];
        let mut notes = json!({"sim/start-ms": (self.rng.below(4_000)).to_string()});
        if self.chance(if job { 40 } else { 15 }) {
            notes["sim/fail-percent"] = json!((10 + self.rng.below(50)).to_string());
        }
        let mut spec = json!({
            "containers": [{"name": "c", "image": format!("i:{}", self.rng.below(1000)),
                "resources": {"requests": {"cpu": format!("{cpu}m")}}}],
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": self.rng.below(5),
        });
        if job {
            notes["sim/run-ms"] = json!((200 + self.rng.below(20_000)).to_string());
            spec["restartPolicy"] = json!(if self.chance(70) { "Never" } else { "OnFailure" });
        }
        if self.chance(20) {
            spec["priorityClassName"] = json!(if self.chance(50) { "low" } else { "high" });
        }
        if self.chance(15) {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": app}}}]);
        }
        json!({"metadata": {"labels": {"app": app}, "annotations": notes}, "spec": spec})
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.rng.below(6))
    }

    fn limit(&self) -> Value {
        match self.rng.below(4) {
            0 => json!("25%"),
            1 => json!("50%"),
            number => json!(number - 1),
        }
    }

    async fn deployment(&self, space: &str) {
        let name = self.name("d");
        let labels = json!({"app": name});
        let mut spec = json!({"replicas": self.rng.below(6), "selector": {"matchLabels": labels},
            "template": self.template(&name, false)});
        if self.chance(15) {
            spec["strategy"] = json!({"type": "Recreate"});
        } else if self.chance(60) {
            let (surge, mut unavailable) = (self.limit(), self.limit());
            if surge == 0 && unavailable == 0 {
                unavailable = json!(1);
            }
            spec["strategy"] = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        }
        if self.chance(20) {
            spec["minReadySeconds"] = json!(self.rng.below(10));
        }
        self.make("deployments", space, &json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))
            .await;
    }

    async fn stateful_set(&self, space: &str) {
        let name = self.name("s");
        let labels = json!({"app": name});
        let mut spec = json!({"replicas": self.rng.below(5), "selector": {"matchLabels": labels}, "serviceName": name,
            "template": self.template(&name, false)});
        if self.chance(40) {
            spec["podManagementPolicy"] = json!("Parallel");
        }
        self.make(
            "statefulsets",
            space,
            &json!({"metadata": {"name": name, "labels": labels}, "spec": spec}),
        )
        .await;
    }

    async fn daemon_set(&self) {
        let name = format!("daemon{}", self.rng.below(2));
        let labels = json!({"app": name});
        let mut template = self.template(&name, false);
        template["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("50m");
        template["spec"]["priorityClassName"] = json!("high");
        let mut spec = json!({"selector": {"matchLabels": labels}, "template": template});
        if self.chance(30) {
            spec["updateStrategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        }
        self.make(
            "daemonsets",
            SPACES[0],
            &json!({"metadata": {"name": name, "labels": labels}, "spec": spec}),
        )
        .await;
    }

    fn job_spec(&self, app: &str) -> Value {
        let mut spec = json!({"parallelism": 1 + self.rng.below(4), "template": self.template(app, true)});
        let counted = self.chance(80);
        if counted {
            spec["completions"] = json!(1 + self.rng.below(6));
        }
        if counted && self.chance(40) {
            spec["completionMode"] = json!("Indexed");
        }
        if self.chance(50) {
            spec["backoffLimit"] = json!(self.rng.below(6));
        }
        if self.chance(10) {
            spec["activeDeadlineSeconds"] = json!(5 + self.rng.below(60));
        }
        if self.chance(15) {
            spec["ttlSecondsAfterFinished"] = json!(self.rng.below(60));
        }
        if self.chance(15) && spec["template"]["spec"]["restartPolicy"] == "Never" {
            let action = ["Ignore", "Count", "FailJob"][self.rng.below(3) as usize];
            spec["template"]["metadata"]["annotations"]["sim/fail-code"] = json!("42");
            spec["podFailurePolicy"] = json!({"rules": [
                {"action": action, "onExitCodes": {"operator": "In", "values": [42]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
        }
        spec
    }

    async fn job(&self, space: &str) {
        let name = self.name("j");
        let spec = self.job_spec(&name);
        self.make("jobs", space, &json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))
            .await;
    }

    async fn cron_job(&self, space: &str) {
        let name = self.name("c");
        let policy = ["Allow", "Forbid", "Replace"][self.rng.below(3) as usize];
        let spec = json!({"schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"spec": self.job_spec(&name)}});
        self.make(
            "cronjobs",
            space,
            &json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}),
        )
        .await;
    }

    /// An app of some kind, by its label: one that is there, if any is.
    async fn app(&self, space: &str) -> String {
        let kind = if self.chance(70) { "deployments" } else { "statefulsets" };
        let all = self.list(kind, space).await;
        let known = self.pick(&all).map(|object| text(&object["metadata"]["name"]).to_owned());
        known.unwrap_or_else(|| self.name("d"))
    }

    async fn service(&self, space: &str) {
        let app = self.app(space).await;
        let spec = json!({"selector": {"app": app}, "ports": [{"port": 80}]});
        self.make("services", space, &json!({"metadata": {"name": app}, "spec": spec})).await;
    }

    async fn budget(&self, space: &str) {
        let app = self.app(space).await;
        let mut spec = json!({"selector": {"matchLabels": {"app": app}}});
        match self.rng.below(3) {
            0 => spec["maxUnavailable"] = json!(1),
            number => spec["minAvailable"] = json!(number),
        }
        let object = json!({"metadata": {"name": app, "labels": {"app": app}}, "spec": spec});
        self.make("poddisruptionbudgets", space, &object).await;
    }

    async fn pod(&self, space: &str) {
        let name = self.name("p");
        // A pod that looks like an app's is adopted.
        let app = if self.chance(30) { self.app(space).await } else { name.clone() };
        let mut pod = self.template(&app, false);
        pod["metadata"]["name"] = json!(name);
        self.disturb(space, &app);
        self.make("pods", space, &pod).await;
    }

    fn disturb(&self, space: &str, app: &str) {
        self.judge.lock().disturb(space, app, self.now_ms());
    }

    async fn any(&self, kinds: &[&'static str], space: &str) -> Option<(&'static str, Value)> {
        let kind = *self.pick(kinds)?;
        let all = self.list(kind, space).await;
        Some((kind, self.pick(&all)?.clone()))
    }

    async fn scale(&self, space: &str) {
        if let Some((kind, object)) = self.any(&["deployments", "deployments", "statefulsets"], space).await {
            self.patch(kind, &object, json!({"spec": {"replicas": self.rng.below(7)}})).await;
        }
    }

    async fn roll(&self, space: &str) {
        let kinds = ["deployments", "deployments", "statefulsets", "daemonsets"];
        if let Some((kind, object)) = self.any(&kinds, space).await {
            let notes = json!({"roll": self.rng.below(1_000_000).to_string()});
            self.patch(kind, &object, json!({"spec": {"template": {"metadata": {"annotations": notes}}}}))
                .await;
        }
    }

    async fn pause(&self, space: &str) {
        if let Some((kind, object)) = self.any(&["deployments"], space).await {
            let paused = object["spec"]["paused"] == true;
            self.patch(kind, &object, json!({"spec": {"paused": !paused}})).await;
        }
    }

    /// Back to the template of some replica set, as `kubectl rollout undo` does.
    async fn undo(&self, space: &str) {
        let Some((kind, object)) = self.any(&["deployments"], space).await else { return };
        let sets = self.list("replicasets", space).await;
        let owned = |set: &&Value| set["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"];
        let sets: Vec<&Value> = sets.iter().filter(owned).collect();
        let Some(set) = self.pick(&sets) else { return };
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        let meta = &object["metadata"];
        let patch = Patch::Json(json!([{"op": "replace", "path": "/spec/template", "value": template}]));
        let (space, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let _ = self.client.patch_at::<Value>(&gvr(kind), space, name, "", &patch).await;
    }

    async fn delete_workload(&self, space: &str) {
        let kinds = [
            "deployments",
            "statefulsets",
            "daemonsets",
            "jobs",
            "cronjobs",
            "services",
            "poddisruptionbudgets",
        ];
        let Some((kind, object)) = self.any(&kinds, space).await else { return };
        let how = match self.rng.below(4) {
            0 => Propagation::Foreground,
            1 => Propagation::Orphan,
            _ => Propagation::Background,
        };
        let (name, app) = (text(&object["metadata"]["name"]), text(&object["metadata"]["labels"]["app"]));
        self.disturb(space, app);
        let options = DeleteOptions::default().propagate(how);
        let _ = self.client.delete_at(&gvr(kind), space, name, &options).await;
    }

    async fn delete_pod(&self, space: &str) {
        let Some((_, pod)) = self.any(&["pods"], space).await else { return };
        self.disturb(space, text(&pod["metadata"]["labels"]["app"]));
        let mut options = DeleteOptions::default();
        if self.chance(15) {
            options = options.grace(0);
        }
        let _ = self.client.delete_at(&gvr("pods"), space, text(&pod["metadata"]["name"]), &options).await;
    }

    /// Asks for pods to be evicted: any one, or again and again all of one app, which its budget must then slow down.
    async fn evict(&self, space: &str) {
        if self.chance(40) {
            if let Some((_, pod)) = self.any(&["pods"], space).await {
                self.try_evict(&pod).await;
            }
            return;
        }
        let guarded = self.any(&["poddisruptionbudgets"], space).await;
        let app = guarded.map(|(_, budget)| text(&budget["metadata"]["labels"]["app"]).to_owned());
        let app = app.unwrap_or_else(|| self.name("d"));
        for _ in 0..1 + self.rng.below(3) {
            let all = self.list("pods", space).await;
            for pod in all.iter().filter(|pod| pod["metadata"]["labels"]["app"] == *app) {
                self.try_evict(pod).await;
                self.clock.sleep(Duration::from_millis(self.rng.below(700))).await;
            }
        }
    }

    async fn try_evict(&self, pod: &Value) {
        let meta = &pod["metadata"];
        let (space, name) = (text(&meta["namespace"]), text(&meta["name"]));
        if let Err(error) = self.client.evict(space, name, &DeleteOptions::default()).await {
            tracing::debug!(name, %error, "not evicted");
        }
    }

    async fn drain(&self) {
        let Some((_, node)) = self.any(&["nodes"], "").await else { return };
        self.patch("nodes", &node, json!({"spec": {"unschedulable": true}})).await;
        let name = node["metadata"]["name"].clone();
        for _ in 0..5 {
            for pod in self.list("pods", "").await {
                let meta = &pod["metadata"];
                let daemon = meta["ownerReferences"][0]["kind"] == "DaemonSet";
                if pod["spec"]["nodeName"] == name && !daemon && meta["deletionTimestamp"].is_null() {
                    self.try_evict(&pod).await;
                    self.clock.sleep(Duration::from_millis(self.rng.below(100))).await;
                }
            }
            self.clock.sleep(Duration::from_secs(5)).await;
        }
    }

    /// Lets pods on all nodes again.
    pub async fn uncordon(&self) {
        for node in self.list("nodes", "").await {
            if node["spec"]["unschedulable"] == true {
                self.patch("nodes", &node, json!({"spec": {"unschedulable": null}})).await;
            }
        }
    }

    async fn suspend(&self, space: &str) {
        if let Some((kind, object)) = self.any(&["jobs", "cronjobs"], space).await {
            let on = object["spec"]["suspend"] == true;
            self.patch(kind, &object, json!({"spec": {"suspend": !on}})).await;
        }
    }

    async fn doom(&self) {
        for app in (0..6).flat_map(|number| ["d", "s"].map(|kind| format!("{kind}{number}"))) {
            self.disturb(SPACES[1], &app);
        }
        let _ = self.client.delete_at(&gvr("namespaces"), "", SPACES[1], &DeleteOptions::default()).await;
    }

    /// Brings what would go on for ever to rest.
    pub async fn settle(&self) {
        self.uncordon().await;
        for space in SPACES {
            for job in self.list("cronjobs", space).await {
                self.patch("cronjobs", &job, json!({"spec": {"suspend": true}})).await;
            }
        }
    }

    /// Deletes a node, as a cloud does when the machine is gone.
    pub async fn delete_node(&self, name: &str) -> Result<(), ClientError> {
        self.client.delete_at(&gvr("nodes"), "", name, &DeleteOptions::default()).await.map(drop)
    }
}

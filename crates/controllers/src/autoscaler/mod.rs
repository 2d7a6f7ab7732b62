//! HorizontalPodAutoscalers: as many replicas as the load of the pods asks for. Watches autoscalers and pods, and
//! asks the metrics API every 15 seconds.

mod load;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::autoscaling::v2::HorizontalPodAutoscaler;
use api::k8s::api::core::v1::Pod;
use api::labels::Selector;
use api::{Gvr, Quantity};
use base::Clock;
use client::plan::About;
use client::{Cache, Client, ClientError, Discovery, EventKind, Key, ListOptions, Meta, Queue, Recorder};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::Context;
use crate::worker;
use load::{PodLoad, Usage};
use plan::{History, Reading};

const WORKERS: usize = 5;
/// How often an autoscaler looks, as upstream.
const PERIOD: Duration = Duration::from_secs(15);

struct Autoscaler {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    scalers: Cache<HorizontalPodAutoscaler>,
    pods: Cache<Pod>,
    discovery: Mutex<Arc<Discovery>>,
    histories: Mutex<BTreeMap<Key, History>>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct PodMetrics {
    metadata: api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    containers: Vec<ContainerMetrics>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, String>,
}

api::wire!(PodMetrics);

impl Autoscaler {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(scaler) = self.scalers.get_key(&key) else {
            self.histories.lock().remove(&key);
            return Ok(None);
        };
        let mut after = (*scaler).clone();
        if let Err(error) = self.look(&scaler, &mut after).await {
            let text = format!("the HPA controller was unable to get the target's current scale: {error}");
            plan::set_condition(&mut after, "AbleToScale", false, "FailedGetScale", &text, self.clock.now());
            self.tell(&scaler, EventKind::Warning, "FailedGetScale", &error.to_string());
        }
        after.status.get_or_insert_default().observed_generation = after.metadata.generation;
        if after.status != scaler.status {
            self.client.update_status(&after).await?;
        }
        Ok(Some(PERIOD))
    }

    fn tell(&self, scaler: &HorizontalPodAutoscaler, kind: EventKind, reason: &str, text: &str) {
        self.recorder.event(&About::of(scaler), kind, reason, text);
    }

    async fn target(&self, scaler: &HorizontalPodAutoscaler) -> Result<Gvr, ClientError> {
        let spec = scaler.spec.clone();
        let reference = spec.scale_target_ref;
        let version = reference.api_version.unwrap_or_default();
        let group = version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        let known = self.discovery.lock().clone();
        if let Some(found) = known.by_kind(&group, &reference.kind) {
            return Ok(found.resource.gvr.clone());
        }
        let fresh = Arc::new(Discovery::fetch(&self.client).await?);
        *self.discovery.lock() = fresh.clone();
        let found = fresh.by_kind(&group, &reference.kind).map(|found| found.resource.gvr.clone());
        let detail = format!("no matches for kind {:?} in group {group:?}", reference.kind);
        found.ok_or_else(|| ClientError::Config { what: "scale target".to_owned(), detail })
    }

    async fn look(
        &self,
        scaler: &HorizontalPodAutoscaler,
        after: &mut HorizontalPodAutoscaler,
    ) -> Result<(), ClientError> {
        let spec = scaler.spec.clone();
        let (namespace, name) = (scaler.namespace(), spec.scale_target_ref.name.clone());
        let gvr = self.target(scaler).await?;
        let path = format!("{}/scale", gvr.path(namespace, &name));
        let mut scale: Value = self.client.get_path(&path).await?;
        let now = self.clock.now();
        let text = "the HPA controller was able to get the target's current scale";
        plan::set_condition(after, "AbleToScale", true, "SucceededGetScale", text, now);
        let replicas =
            |value: &Value| value.as_i64().and_then(|count| i32::try_from(count).ok()).unwrap_or(0);
        let current = replicas(&scale["spec"]["replicas"]);
        after.status.get_or_insert_default().current_replicas = Some(replicas(&scale["status"]["replicas"]));
        if current == 0 && spec.min_replicas != Some(0) {
            let text = "scaling is disabled since the replica count of the target is zero";
            plan::set_condition(after, "ScalingActive", false, "ScalingDisabled", text, now);
            return Ok(());
        }
        let selector = scale["status"]["selector"].as_str().unwrap_or("").to_owned();
        let readings = self.read(scaler, &selector, current).await;
        let wanted = {
            let mut histories = self.histories.lock();
            let history = histories.entry(Key::of(scaler)).or_default();
            plan::decide(after, current, &readings, history, self.clock.monotonic(), now)
        };
        for reading in readings.iter().filter_map(|reading| reading.as_ref().err()) {
            self.tell(scaler, EventKind::Warning, "FailedGetResourceMetric", reading);
        }
        let Some(wanted) = wanted else { return Ok(()) };
        after.status.get_or_insert_default().desired_replicas = wanted.replicas;
        if wanted.replicas == current {
            return Ok(());
        }
        scale["spec"]["replicas"] = json!(wanted.replicas);
        let _: Value = self.client.update_at(&gvr, namespace, &name, "scale", &scale).await?;
        plan::scaled(after, wanted.replicas, now);
        let text = format!("New size: {}; reason: {}", wanted.replicas, wanted.reason);
        self.tell(scaler, EventKind::Normal, "SuccessfulRescale", &text);
        let mut histories = self.histories.lock();
        histories.entry(Key::of(scaler)).or_default().note(wanted.replicas - current, self.clock.monotonic());
        Ok(())
    }

    /// What each metric of the autoscaler says.
    async fn read(
        &self,
        scaler: &HorizontalPodAutoscaler,
        selector: &str,
        current: i32,
    ) -> Vec<Result<Reading, String>> {
        let metrics = scaler.spec.metrics.clone().unwrap_or_default();
        let usage = self.usage(scaler.namespace(), selector).await;
        let parsed = Selector::parse(selector).unwrap_or_else(|_| Selector::nothing());
        let mut pods = self.pods.namespace(scaler.namespace());
        pods.retain(|pod| parsed.matches_opt(pod.meta().labels.as_ref()));
        let now = self.clock.now();
        let read = |metric| {
            let (resource, container, target) = plan::resource_metric(metric)?;
            let usage = usage.as_ref().map_err(|error| {
                let text = "unable to get metrics for resource";
                format!("failed to get {resource} utilization: {text} {resource}: {error}")
            })?;
            let loads: Vec<PodLoad> = pods
                .iter()
                .map(|pod| load::of(pod, usage.get(pod.name()), &resource, container.as_deref(), now))
                .collect();
            plan::reading(&resource, container.as_deref(), &target, &loads, current)
        };
        metrics.iter().map(read).collect()
    }

    async fn usage(&self, namespace: &str, selector: &str) -> Result<BTreeMap<String, Usage>, ClientError> {
        let gvr = Gvr::new("metrics.k8s.io", "v1beta1", "pods");
        let options = ListOptions { labels: selector.to_owned(), ..ListOptions::default() };
        let list = self.client.list_at::<PodMetrics>(&gvr, namespace, &options, false).await?;
        let amount =
            |text: &String| text.parse::<Quantity>().map(|quantity| quantity.milli_value()).unwrap_or(0);
        let container = |metrics: ContainerMetrics| {
            let usage =
                metrics.usage.iter().map(|(resource, text)| (resource.clone(), amount(text))).collect();
            (metrics.name, usage)
        };
        let pod = |metrics: PodMetrics| {
            let name = metrics.metadata.name.unwrap_or_default();
            (name, metrics.containers.into_iter().map(container).collect())
        };
        Ok(list.items.into_iter().map(pod).collect())
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let scalers = context.informers.of::<HorizontalPodAutoscaler>();
    let pods = context.informers.of::<Pod>();
    let add = queue.clone();
    scalers.on_change(move |change| {
        // Our own status is no reason to look again before the period is over.
        let object = change.object();
        if change.old().is_none_or(|old| old.spec != object.spec || old.uid() != object.uid()) {
            add.add(Key::of(&**object));
        }
    });
    let account = "horizontal-pod-autoscaler";
    let autoscaler = Arc::new(Autoscaler {
        client: (context.client_for)(account),
        recorder: context.recorder(account, "horizontal-pod-autoscaler"),
        clock: context.clock.clone(),
        scalers: scalers.cache().clone(),
        pods: pods.cache().clone(),
        discovery: Mutex::default(),
        histories: Mutex::default(),
    });
    worker::start("autoscaler", queue, WORKERS, &context.tasks, move |key| {
        let autoscaler = autoscaler.clone();
        async move { autoscaler.sync(key).await }
    });
}

//! HorizontalPodAutoscalers: as many replicas as the load of the pods asks for. Watches autoscalers and pods, and
//! asks the metrics API every 15 seconds.

mod load;
mod metric;
mod plan;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use api::k8s::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler, MetricSpec};
use api::k8s::api::core::v1::Pod;
use api::labels::Selector;
use base::Clock;
use client::plan::About;
use client::{Cache, Client, ClientError, Discovery, EventKind, Key, Meta, Queue, Recorder};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::Context;
use crate::worker;
use metric::{Fetched, Scaled};
use plan::{History, Wanted};
use usage::Source;

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
    /// The pods that each autoscaler scaled when it looked last.
    selectors: Mutex<BTreeMap<Key, Selector>>,
}

impl Autoscaler {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(scaler) = self.scalers.get_key(&key) else {
            self.histories.lock().remove(&key);
            self.selectors.lock().remove(&key);
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
        let first = || History::starting(current, self.clock.monotonic());
        self.histories.lock().entry(Key::of(scaler)).or_insert_with(first);
        if current == 0 && spec.min_replicas != Some(0) {
            let text = "scaling is disabled since the replica count of the target is zero";
            plan::set_condition(after, "ScalingActive", false, "ScalingDisabled", text, now);
            return Ok(());
        }
        let wanted = match plan::out_of_limits(scaler, current) {
            Some(wanted) => wanted,
            None => match self.judge(scaler, after, &scale, current).await {
                Some(wanted) => wanted,
                None => return Ok(()),
            },
        };
        after.status.get_or_insert_default().desired_replicas = wanted.replicas;
        if wanted.replicas == current {
            return Ok(());
        }
        scale["spec"]["replicas"] = json!(wanted.replicas);
        let written: Result<Value, ClientError> =
            self.client.update_at(&gvr, namespace, &name, "scale", &scale).await;
        let (size, reason) = (wanted.replicas, wanted.reason);
        if let Err(error) = written {
            let text = format!("the HPA controller was unable to update the target scale: {error}");
            plan::set_condition(after, "AbleToScale", false, "FailedUpdateScale", &text, now);
            let text = format!("New size: {size}; reason: {reason}; error: {error}");
            self.tell(scaler, EventKind::Warning, "FailedRescale", &text);
            after.status.get_or_insert_default().desired_replicas = current;
            return Ok(());
        }
        plan::scaled(after, size, now);
        let text = format!("New size: {size}; reason: {reason}");
        self.tell(scaler, EventKind::Normal, "SuccessfulRescale", &text);
        let mut histories = self.histories.lock();
        histories.entry(Key::of(scaler)).or_default().note(size - current, self.clock.monotonic());
        Ok(())
    }

    /// The pods of the target; when it cannot be told which they are, the condition says why.
    fn pods_of(
        &self,
        scaler: &HorizontalPodAutoscaler,
        after: &mut HorizontalPodAutoscaler,
        text: &str,
    ) -> Option<Vec<Arc<Pod>>> {
        const INVALID: &str = "InvalidSelector";
        let (event, reason, error, condition) = match Selector::parse(text) {
            Ok(selector) if !text.is_empty() => {
                let mut pods = self.pods.namespace(scaler.namespace());
                pods.retain(|pod| selector.matches_opt(pod.meta().labels.as_ref()));
                let mut selectors = self.selectors.lock();
                selectors.insert(Key::of(scaler), selector);
                let rivals = plan::scaling(&selectors, scaler.namespace(), &pods);
                if rivals.len() < 2 {
                    return Some(pods);
                }
                let rivals = rivals.join(" ");
                let text = format!("pods by selector {text} are controlled by multiple HPAs: [{rivals}]");
                ("AmbiguousSelector", "AmbiguousSelector", text.clone(), text)
            }
            Ok(_) => {
                let condition = "the HPA target's scale is missing a selector".to_owned();
                ("SelectorRequired", INVALID, "selector is required".to_owned(), condition)
            }
            Err(error) => {
                let what = "couldn't convert selector into a corresponding internal selector object";
                (INVALID, INVALID, format!("{what}: {error}"), format!("{what}: {error}"))
            }
        };
        self.tell(scaler, EventKind::Warning, event, &error);
        self.tell(scaler, EventKind::Warning, "FailedComputeMetricsReplicas", &error);
        plan::set_condition(after, "ScalingActive", false, reason, &condition, self.clock.now());
        None
    }

    /// The number that the metrics ask for; `None` when they allow no judgement.
    async fn judge(
        &self,
        scaler: &HorizontalPodAutoscaler,
        after: &mut HorizontalPodAutoscaler,
        scale: &Value,
        current: i32,
    ) -> Option<Wanted> {
        let now = self.clock.now();
        let selector = scale["status"]["selector"].as_str().unwrap_or("");
        let pods = self.pods_of(scaler, after, selector)?;
        let status_replicas = scale["status"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok());
        let scaled = Scaled {
            pods: &pods,
            wanted: current,
            current: status_replicas.unwrap_or(0),
            tolerance: plan::tolerance(scaler.spec.behavior.as_ref()),
            now,
        };
        let metrics = scaler.spec.metrics.clone().unwrap_or_default();
        let fetched = self.fetch(scaler, &metrics, selector).await;
        let pairs = metrics.iter().zip(fetched);
        let readings: Vec<_> =
            pairs.map(|(metric, fetched)| metric::read(metric, fetched, &scaled)).collect();
        for unread in readings.iter().filter_map(|reading| reading.as_ref().err()) {
            self.tell(scaler, EventKind::Warning, unread.reason, &unread.error);
        }
        let combined = plan::combine(&readings, current);
        after.status.get_or_insert_default().current_metrics = Some(combined.metrics);
        if let Some((reason, text)) = combined.reason {
            plan::set_condition(after, "ScalingActive", false, reason, &text, now);
        }
        let Some((wish, metric)) = combined.wish else {
            let text = combined.unread.unwrap_or_else(|| "no metrics are set".to_owned());
            self.tell(scaler, EventKind::Warning, "FailedComputeMetricsReplicas", &text);
            return None;
        };
        let mut histories = self.histories.lock();
        let history = histories.entry(Key::of(scaler)).or_default();
        Some(plan::decide(after, current, (wish, &metric), history, self.clock.monotonic(), now))
    }

    /// What the metrics are judged by; usage is asked for once.
    async fn fetch(
        &self,
        scaler: &HorizontalPodAutoscaler,
        metrics: &[MetricSpec],
        selector: &str,
    ) -> Vec<Fetched> {
        let discovery = self.discovery.lock().clone();
        let source = Source { client: &self.client, discovery: &discovery, namespace: scaler.namespace() };
        let by_usage =
            metrics.iter().any(|metric| metric.resource.is_some() || metric.container_resource.is_some());
        let usage =
            if by_usage { source.resources(selector).await } else { Err("no usage is needed".to_owned()) };
        let usage = Arc::new(usage);
        let mut out = Vec::with_capacity(metrics.len());
        for metric in metrics {
            out.push(if let Some(pods) = &metric.pods {
                let of_metric = pods.metric.selector.as_ref();
                Fetched::Pods(source.pods(&pods.metric.name, selector, of_metric).await)
            } else if let Some(object) = &metric.object {
                let (of, metric) = (&object.described_object, &object.metric);
                Fetched::Value(match resource_of(&discovery, of) {
                    Ok(name) => source.object(&metric.name, &name, &of.name, metric.selector.as_ref()).await,
                    Err(error) => Err(error),
                })
            } else if let Some(external) = &metric.external {
                let metric = &external.metric;
                Fetched::Value(source.external(&metric.name, metric.selector.as_ref()).await)
            } else {
                Fetched::Usage(usage.clone())
            });
        }
        out
    }
}

/// An object's resource as the custom metrics API names it.
fn resource_of(discovery: &Discovery, of: &CrossVersionObjectReference) -> Result<String, String> {
    let version = of.api_version.clone().unwrap_or_default();
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    let found = discovery.by_kind(group, &of.kind);
    let resource = found.map(|found| found.resource.gvr.resource.to_string());
    let resource = resource.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", of.kind))?;
    Ok(if group.is_empty() { resource } else { format!("{resource}.{group}") })
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
        selectors: Mutex::default(),
    });
    worker::start("autoscaler", queue, WORKERS, &context.tasks, move |key| {
        let autoscaler = autoscaler.clone();
        async move { autoscaler.sync(key).await }
    });
}

//! What the metrics APIs say: usage of pods by resource, values of custom metrics of pods and objects, and external
//! values. All numbers are thousandths.

use std::collections::BTreeMap;

use api::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use api::labels::Selector;
use client::{Client, ClientError, Discovery};
use jiff::Timestamp;
use serde::Deserialize;

/// The window of a measurement that does not tell its own, seconds.
const WINDOW_SECONDS: i64 = 60;
const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
const CUSTOM_GROUP: &str = "custom.metrics.k8s.io";

/// A pod's usage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// By container and resource.
    pub containers: BTreeMap<String, BTreeMap<String, i64>>,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which time, seconds.
    pub window_seconds: i64,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodMetrics {
    metadata: Named,
    timestamp: Option<Timestamp>,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct MetricValue {
    described_object: Named,
    value: String,
}

fn milli(text: &str) -> i64 {
    text.parse::<Quantity>().map(|quantity| quantity.milli_value()).unwrap_or(0)
}

/// Whole seconds of a Go duration of one unit, as metrics servers write windows.
fn window(text: &str) -> Option<i64> {
    let number = |suffix: &str| text.strip_suffix(suffix)?.parse::<f64>().ok();
    #[allow(clippy::cast_possible_truncation, reason = "a window of seconds")]
    let whole = |seconds: f64| seconds.ceil() as i64;
    number("ms").map(|ms| whole(ms / 1e3)).or_else(|| match text.split_once('m') {
        Some((minutes, rest)) => {
            let rest = rest.strip_suffix('s').and_then(|rest| rest.parse::<f64>().ok()).unwrap_or(0.0);
            Some(whole(minutes.parse::<f64>().ok()? * 60.0 + rest))
        }
        None => number("s").map(whole),
    })
}

/// `name=value` pairs of a query string.
fn query(pairs: &[(&str, &str)]) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            if keep(byte) {
                out.push(char::from(byte))
            } else {
                out.push_str(&format!("%{byte:02X}"))
            }
            out
        })
    };
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// A selector as the query string has it.
fn selector_text(selector: Option<&LabelSelector>) -> String {
    let selector = selector.and_then(|selector| Selector::from_object(Some(selector)).ok());
    selector.map(|selector| selector.to_string()).unwrap_or_default()
}

/// Reads the metrics APIs of one namespace.
pub struct Source<'a> {
    /// As the autoscaler.
    pub client: &'a Client,
    /// What is served.
    pub discovery: &'a Discovery,
    /// The autoscaler's namespace.
    pub namespace: &'a str,
}

impl Source<'_> {
    /// Usage of the pods that a selector chooses, by name.
    pub async fn resources(&self, selector: &str) -> Result<BTreeMap<String, Usage>, String> {
        let path =
            format!("{RESOURCE}/namespaces/{}/pods{}", self.namespace, query(&[("labelSelector", selector)]));
        let list: Result<List<PodMetrics>, ClientError> = self.client.get_path(&path).await;
        let list =
            list.map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let pod = |pod: PodMetrics| {
            let of = |one: ContainerMetrics| {
                (one.name, one.usage.iter().map(|(name, text)| (name.clone(), milli(text))).collect())
            };
            let usage = Usage {
                containers: pod.containers.into_iter().map(of).collect(),
                at: pod.timestamp.unwrap_or_default(),
                window_seconds: window(&pod.window).unwrap_or(WINDOW_SECONDS),
            };
            (pod.metadata.name, usage)
        };
        Ok(list.items.into_iter().map(pod).collect())
    }

    async fn custom(
        &self,
        object: &str,
        metric: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<MetricValue>, String> {
        let served = |version: &&str| {
            let known = self.discovery.resources.iter().map(|known| &known.resource.gvr);
            known.into_iter().any(|gvr| gvr.group == CUSTOM_GROUP && gvr.version == *version)
        };
        let version = ["v1beta2", "v1beta1"].into_iter().find(served).unwrap_or("v1beta1");
        let path = format!(
            "/apis/{CUSTOM_GROUP}/{version}/namespaces/{}/{object}/{metric}{}",
            self.namespace,
            query(pairs)
        );
        let list: Result<List<MetricValue>, ClientError> = self.client.get_path(&path).await;
        list.map(|list| list.items)
            .map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))
    }

    /// A custom metric of the pods that a selector chooses, by name.
    pub async fn pods(
        &self,
        metric: &str,
        selector: &str,
        of_metric: Option<&LabelSelector>,
    ) -> Result<BTreeMap<String, i64>, String> {
        let chosen = selector_text(of_metric);
        let pairs = [("labelSelector", selector), ("metricLabelSelector", chosen.as_str())];
        let values = self.custom("pods/*", metric, &pairs).await?;
        if values.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(values.into_iter().map(|value| (value.described_object.name, milli(&value.value))).collect())
    }

    /// A custom metric of one object; `resource` as `services` or `ingresses.networking.k8s.io`.
    pub async fn object(
        &self,
        metric: &str,
        resource: &str,
        name: &str,
        of_metric: Option<&LabelSelector>,
    ) -> Result<i64, String> {
        let chosen = selector_text(of_metric);
        let pairs = [("metricLabelSelector", chosen.as_str())];
        let values = self.custom(&format!("{resource}/{name}"), metric, &pairs).await?;
        values
            .first()
            .map(|value| milli(&value.value))
            .ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    /// The sum of an external metric's values.
    pub async fn external(&self, metric: &str, of_metric: Option<&LabelSelector>) -> Result<i64, String> {
        let chosen = selector_text(of_metric);
        let path = format!(
            "{EXTERNAL}/namespaces/{}/{metric}{}",
            self.namespace,
            query(&[("labelSelector", chosen.as_str())])
        );
        let list: Result<List<MetricValue>, ClientError> = self.client.get_path(&path).await;
        let list =
            list.map_err(|error| format!("unable to fetch metrics from external metrics API: {error}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().map(|value| milli(&value.value)).fold(0, i64::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_queries() {
        for (text, expect) in
            [("10s", Some(10)), ("15.5s", Some(16)), ("1m0s", Some(60)), ("500ms", Some(1)), ("", None)]
        {
            assert_eq!(window(text), expect, "{text}");
        }
        assert_eq!(query(&[("a", "x=y,z in (1)"), ("b", "")]), "?a=x%3Dy%2Cz%20in%20%281%29");
        assert_eq!(query(&[("a", "")]), "");
    }
}

//! Counters, gauges and histograms, printed in Prometheus' text format.
//!
//! Must not know what is measured: names and labels come from the callers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// The kind of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One time series.
#[derive(Debug)]
struct Series {
    /// Bits of an `f64`: the value, or a histogram's sum.
    value: AtomicU64,
    /// A histogram's counts, one a bucket and one for +Inf.
    buckets: Vec<AtomicU64>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: Kind,
    bounds: &'static [f64],
    series: RwLock<BTreeMap<String, Arc<Series>>>,
}

/// All metrics of one process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    families: Arc<RwLock<BTreeMap<&'static str, Arc<Family>>>>,
}

/// One counter, gauge or histogram with its labels; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metric {
    series: Arc<Series>,
    bounds: &'static [f64],
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Metrics::default()
    }

    /// A counter; the same name and labels give the same counter.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Metric {
        self.metric(name, help, Kind::Counter, &[], labels)
    }

    /// A gauge; the same name and labels give the same gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Metric {
        self.metric(name, help, Kind::Gauge, &[], labels)
    }

    /// A histogram with these upper bounds.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &[(&str, &str)],
    ) -> Metric {
        self.metric(name, help, Kind::Histogram, bounds, labels)
    }

    fn metric(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        bounds: &'static [f64],
        labels: &[(&str, &str)],
    ) -> Metric {
        let known = self.families.read().get(name).cloned();
        let family = known.unwrap_or_else(|| {
            let mut families = self.families.write();
            let new = || Arc::new(Family { help, kind, bounds, series: RwLock::default() });
            families.entry(name).or_insert_with(new).clone()
        });
        let labels = render_labels(labels);
        if let Some(series) = family.series.read().get(&labels) {
            return Metric { series: series.clone(), bounds: family.bounds };
        }
        let buckets = if kind == Kind::Histogram { family.bounds.len() + 1 } else { 0 };
        let buckets = (0..buckets).map(|_| AtomicU64::new(0)).collect();
        let new = Arc::new(Series { value: AtomicU64::new(0), buckets });
        let series = family.series.write().entry(labels).or_insert(new).clone();
        Metric { series, bounds: family.bounds }
    }

    /// Everything in Prometheus' text format, ordered by name and labels.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in self.families.read().iter() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, series) in family.series.read().iter() {
                render_series(&mut out, name, family, labels, series);
            }
        }
        out
    }
}

fn render_series(out: &mut String, name: &str, family: &Family, labels: &str, series: &Series) {
    let value = f64::from_bits(series.value.load(Ordering::Relaxed));
    let braces = |labels: &str| if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    if family.kind != Kind::Histogram {
        let _ = writeln!(out, "{name}{} {value}", braces(labels));
        return;
    }
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (index, bucket) in series.buckets.iter().enumerate() {
        total += bucket.load(Ordering::Relaxed);
        let bound = family.bounds.get(index).map_or("+Inf".to_owned(), f64::to_string);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(out, "{name}_sum{} {value}\n{name}_count{} {total}", braces(labels), braces(labels));
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out =
        String::with_capacity(labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum());
    for (at, (name, value)) in labels.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        out.push_str(name);
        out.push_str("=\"");
        if value.contains(['\\', '"', '\n']) {
            out.push_str(&value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
        } else {
            out.push_str(value);
        }
        out.push('"');
    }
    out
}

impl Metric {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Adds `amount` (negative only for gauges).
    pub fn add(&self, amount: f64) {
        let add = |bits| Some((f64::from_bits(bits) + amount).to_bits());
        let _ = self.series.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64) {
        self.series.value.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The current value (a histogram's sum).
    pub fn get(&self) -> f64 {
        f64::from_bits(self.series.value.load(Ordering::Relaxed))
    }

    /// Counts a histogram's sample.
    pub fn observe(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.series.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.add(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_prometheus_text() {
        let metrics = Metrics::new();
        metrics.counter("requests_total", "Requests.", &[("verb", "GET")]).inc();
        metrics.counter("requests_total", "Requests.", &[("verb", "GET")]).inc();
        let histogram = metrics.histogram("seconds", "Time.", &[0.1, 1.0], &[]);
        histogram.observe(0.1);
        histogram.observe(5.0);
        let expect = "# HELP requests_total Requests.\n# TYPE requests_total counter\n\
            requests_total{verb=\"GET\"} 2\n# HELP seconds Time.\n# TYPE seconds histogram\n\
            seconds_bucket{le=\"0.1\"} 1\nseconds_bucket{le=\"1\"} 1\nseconds_bucket{le=\"+Inf\"} 2\n\
            seconds_sum 5.1\nseconds_count 2\n";
        assert_eq!(metrics.render(), expect);
    }
}

//! `top node | pod`: what the metrics API measured.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use crate::Error;
use crate::app::App;
use crate::commands::{Command, EVERYWHERE, FIELDS, Group, LABELS};
use crate::describe::{list, text};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::table::Widths;
use crate::request::{self, Select};
use crate::select;
use crate::verbs::run;

const NODE: &[Flag] = &[
    flag("no-headers", Takes::Switch, "false", "No header"),
    flag("show-capacity", Takes::Switch, "false", "Shares of capacity, not of what can be allocated"),
    flag("sort-by", Takes::Text, "", "cpu or memory"),
    flag("use-protocol-buffers", Takes::Switch, "true", "Accepted for compatibility"),
];
const POD: &[Flag] = &[
    flag("containers", Takes::Switch, "false", "Each container"),
    flag("no-headers", Takes::Switch, "false", "No header"),
    flag("sort-by", Takes::Text, "", "cpu or memory"),
    flag("sum", Takes::Switch, "false", "The sum of all pods"),
    flag("use-protocol-buffers", Takes::Switch, "true", "Accepted for compatibility"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "top node",
        aliases: &["nodes", "no"],
        group: Group::Cluster,
        usage: "[NAME | -l label]",
        about: "Display resource (CPU/memory) usage of nodes",
        examples: "kubectl top node",
        flags: &[LABELS, NODE],
        run: run!(nodes),
    },
    Command {
        name: "top pod",
        aliases: &["pods", "po"],
        group: Group::Cluster,
        usage: "[NAME | -l label]",
        about: "Display resource (CPU/memory) usage of pods",
        examples: "kubectl top pod\nkubectl top pod POD_NAME --containers",
        flags: &[LABELS, FIELDS, EVERYWHERE, POD],
        run: run!(pods),
    },
];

/// CPU in thousandths, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu: f64,
    memory: f64,
}

impl Usage {
    fn of(usage: &Value) -> Usage {
        let amount = |name: &str| {
            usage[name]
                .as_str()
                .and_then(|text| text.parse::<Quantity>().ok())
                .map_or(0.0, |amount| amount.as_f64())
        };
        Usage { cpu: amount("cpu") * 1000.0, memory: amount("memory") }
    }

    fn add(&mut self, other: Usage) {
        self.cpu += other.cpu;
        self.memory += other.memory;
    }

    fn cpu_text(self) -> String {
        format!("{}m", self.cpu.ceil())
    }

    fn memory_text(self) -> String {
        format!("{}Mi", (self.memory / f64::from(1 << 20)).floor())
    }
}

/// What rows are sorted by.
type By = fn(Usage) -> f64;

fn order(args: &Args) -> Result<Option<By>, Error> {
    match args.text("sort-by") {
        "" => Ok(None),
        "cpu" => Ok(Some(|usage| usage.cpu)),
        "memory" => Ok(Some(|usage| usage.memory)),
        _ => Err(Error::usage("--sort-by accepts only cpu or memory")),
    }
}

async fn metrics(app: &App, args: &Args, path: &str) -> Result<Vec<Value>, Error> {
    let has = app.kinds().await?.all().iter().any(|row| row.resource.gvr.group == "metrics.k8s.io");
    if !has {
        return Err(Error::state("Metrics API not available"));
    }
    let name = args.words.first().map(String::as_str).unwrap_or_default();
    if name.is_empty() {
        let select = Select {
            labels: args.text("selector").to_owned(),
            fields: args.text("field-selector").to_owned(),
            page: 0,
        };
        let list = request::list(app.client()?, path, &select, "", &[]).await?;
        return Ok(select::items(&list));
    }
    Ok(vec![app.client()?.get_path(&format!("{path}/{name}")).await?])
}

async fn nodes(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.len() > 1 {
        return Err(Error::misuse("top node", "node [NAME | -l label]"));
    }
    if !args.words.is_empty() && args.given("selector") {
        return Err(Error::usage("only one of NAME or --selector can be provided"));
    }
    let order = order(args)?;
    let measured = metrics(app, args, "/apis/metrics.k8s.io/v1beta1/nodes").await?;
    if measured.is_empty() {
        return Err(Error::state("metrics not available yet"));
    }
    let all = request::list(app.client()?, "/api/v1/nodes", &Select::default(), "", &[]).await?;
    let field = if args.on("show-capacity") { "capacity" } else { "allocatable" };
    let held: BTreeMap<String, Usage> = list(&all, "/items")
        .iter()
        .map(|node| (text(node, "/metadata/name").to_owned(), Usage::of(&node["status"][field])))
        .collect();
    let mut rows: Vec<(String, Usage)> = measured
        .iter()
        .map(|node| (text(node, "/metadata/name").to_owned(), Usage::of(&node["usage"])))
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(order) = order {
        rows.sort_by(|a, b| order(b.1).total_cmp(&order(a.1)));
    }
    let mut table = Vec::new();
    if !args.on("no-headers") {
        table
            .push(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].map(str::to_owned).to_vec());
    }
    let percent = |part: f64, of: f64| {
        if of > 0.0 { format!("{}%", (part / of * 100.0).floor()) } else { "<unknown>".to_owned() }
    };
    for (name, usage) in rows {
        let of = held.get(&name).copied().unwrap_or_default();
        table.push(vec![
            name,
            usage.cpu_text(),
            percent(usage.cpu.ceil(), of.cpu),
            usage.memory_text(),
            percent(usage.memory, of.memory),
        ]);
    }
    app.out.text(&Widths::default().format(&table));
    Ok(())
}

async fn pods(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.len() > 1 {
        return Err(Error::misuse("top pod", "pod [NAME | -l label]"));
    }
    if !args.words.is_empty() && args.given("selector") {
        return Err(Error::usage("only one of NAME or selector can be provided"));
    }
    let order = order(args)?;
    let everywhere = args.on("all-namespaces");
    let base = "/apis/metrics.k8s.io/v1beta1";
    let path = if everywhere {
        format!("{base}/pods")
    } else {
        format!("{base}/namespaces/{}/pods", app.namespace()?)
    };
    let measured = metrics(app, args, &path).await?;
    if measured.is_empty() {
        app.err.line(&match everywhere {
            true => "No resources found".to_owned(),
            false => format!("No resources found in {} namespace.", app.namespace()?),
        });
        return Ok(());
    }
    let mut rows: Vec<(Vec<String>, Usage)> = Vec::new();
    for pod in &measured {
        let mut start = Vec::new();
        if everywhere {
            start.push(text(pod, "/metadata/namespace").to_owned());
        }
        start.push(text(pod, "/metadata/name").to_owned());
        let mut sum = Usage::default();
        for container in list(pod, "/containers") {
            let usage = Usage::of(&container["usage"]);
            sum.add(usage);
            if args.on("containers") {
                rows.push(([start.clone(), vec![text(container, "/name").to_owned()]].concat(), usage));
            }
        }
        if !args.on("containers") {
            rows.push((start, sum));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(order) = order {
        rows.sort_by(|a, b| order(b.1).total_cmp(&order(a.1)));
    }
    show_pods(app, args, rows, everywhere);
    Ok(())
}

fn show_pods(app: &App, args: &Args, rows: Vec<(Vec<String>, Usage)>, everywhere: bool) {
    let mut header: Vec<&str> = Vec::new();
    header.extend(everywhere.then_some("NAMESPACE"));
    header.extend(args.on("containers").then_some("POD"));
    header.extend(["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    let columns = header.len();
    let mut table: Vec<Vec<String>> = Vec::new();
    if !args.on("no-headers") {
        table.push(header.into_iter().map(str::to_owned).collect());
    }
    let mut sum = Usage::default();
    for (mut cells, usage) in rows {
        sum.add(usage);
        cells.extend([usage.cpu_text(), usage.memory_text()]);
        table.push(cells);
    }
    if args.on("sum") {
        let empty = |mark: &str| {
            let mut cells = vec![String::new(); columns - 2];
            cells.extend([mark.to_owned(), mark.to_owned()]);
            cells
        };
        table.push(empty("________"));
        let mut cells = vec![String::new(); columns - 2];
        cells.extend([sum.cpu_text(), sum.memory_text()]);
        table.push(cells);
    }
    app.out.text(&Widths::default().format(&table));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts() {
        let mut usage = Usage::of(&json!({"cpu": "1500000n", "memory": "2560Ki"}));
        assert_eq!((usage.cpu_text(), usage.memory_text()), ("2m".to_owned(), "2Mi".to_owned()));
        usage.add(Usage::of(&json!({"cpu": "1", "memory": "1Gi"})));
        assert_eq!((usage.cpu_text(), usage.memory_text()), ("1002m".to_owned(), "1026Mi".to_owned()));
    }
}

//! Nodes: `taint`, `cordon`, `uncordon`, `drain`.

use std::time::Duration;

use client::client::Patch;
use client::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::{ALL, Command, Group, LABELS, PRINT, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::Done;
use crate::request::{self, DryRun, Write};
use crate::select::{self, Info, Selector};
use crate::verbs::{change, run, wait};
use crate::{Error, flags};

const TAINT: &[Flag] =
    &[flag("overwrite", Takes::Switch, "false", "Replace taints of the same key and effect")];
const DRY: &[Flag] =
    &[flag("dry-run", Takes::Optional("unchanged"), "none", "none, server or client: only try")];
const DRAIN: &[Flag] = &[
    flag("chunk-size", Takes::Number, "500", "Objects in one answer of the server"),
    flag("delete-emptydir-data", Takes::Switch, "false", "Evict pods with emptyDir volumes too"),
    flag("disable-eviction", Takes::Switch, "false", "Delete pods, past their disruption budgets"),
    flag("force", Takes::Switch, "false", "Evict pods that nobody will replace"),
    flag("grace-period", Takes::Number, "-1", "Seconds a pod has to end; -1 = its own"),
    flag("ignore-daemonsets", Takes::Switch, "false", "Leave pods of daemon sets"),
    flag("pod-selector", Takes::Text, "", "Only pods with these labels"),
    flag(
        "skip-wait-for-delete-timeout",
        Takes::Number,
        "0",
        "Do not wait for pods being deleted longer than this, seconds",
    ),
    flag("timeout", Takes::Time, "0s", "How long to try; 0 = as long as it takes"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "taint",
        aliases: &[],
        group: Group::Cluster,
        usage: "NODE NAME KEY_1=VAL_1:TAINT_EFFECT_1 ... KEY_N=VAL_N:TAINT_EFFECT_N",
        about: "Update the taints on one or more nodes",
        examples: "kubectl taint nodes foo dedicated=special-user:NoSchedule\nkubectl taint nodes foo dedicated-",
        flags: &[PRINT, LABELS, ALL, WRITE, TAINT],
        run: run!(taint),
    },
    Command {
        name: "cordon",
        aliases: &[],
        group: Group::Cluster,
        usage: "NODE",
        about: "Mark node as unschedulable",
        examples: "kubectl cordon foo",
        flags: &[LABELS, DRY],
        run: run!(cordon),
    },
    Command {
        name: "uncordon",
        aliases: &[],
        group: Group::Cluster,
        usage: "NODE",
        about: "Mark node as schedulable",
        examples: "kubectl uncordon foo",
        flags: &[LABELS, DRY],
        run: run!(uncordon),
    },
    Command {
        name: "drain",
        aliases: &[],
        group: Group::Cluster,
        usage: "NODE",
        about: "Drain node in preparation for maintenance",
        examples: "kubectl drain foo --ignore-daemonsets --delete-emptydir-data",
        flags: &[LABELS, DRY, DRAIN],
        run: run!(drain),
    },
];

/// One taint of a command line; removal names a key and perhaps an effect.
#[derive(Clone, Debug, PartialEq)]
struct Taint {
    key: String,
    value: String,
    effect: String,
}

impl Taint {
    fn parse(text: &str) -> Result<Taint, Error> {
        let wrong = |why: &str| Error::misuse("taint", &format!("invalid taint spec: {text}{why}"));
        let (pair, effect) = text.split_once(':').unwrap_or((text, ""));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if effect.contains(':') || value.contains('=') {
            return Err(wrong(""));
        }
        let mut errors = api::names::qualified_name(key);
        errors.extend(api::names::label_value(value));
        if !errors.is_empty() {
            return Err(wrong(&format!(", {}", errors.join("; "))));
        }
        if !effect.is_empty() && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            let message = format!("invalid taint effect: {effect}, unsupported taint effect");
            return Err(Error::misuse("taint", &message));
        }
        Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
    }

    fn to_json(&self) -> Value {
        let mut taint = json!({"key": self.key, "effect": self.effect});
        if !self.value.is_empty() {
            taint["value"] = json!(self.value);
        }
        taint
    }

    fn is(&self, other: &Value) -> bool {
        other["key"] == self.key.as_str()
            && (self.effect.is_empty() || other["effect"] == self.effect.as_str())
    }

    fn show(&self) -> String {
        if self.effect.is_empty() { self.key.clone() } else { format!("{}:{}", self.key, self.effect) }
    }
}

fn taints(specs: &[String]) -> Result<(Vec<Taint>, Vec<Taint>), Error> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for spec in specs {
        if let Some(gone) = spec.strip_suffix('-') {
            remove.push(Taint::parse(gone)?);
            continue;
        }
        let taint = Taint::parse(spec)?;
        if taint.effect.is_empty() {
            return Err(Error::misuse("taint", &format!("invalid taint spec: {spec}")));
        }
        if add.iter().any(|other: &Taint| other.key == taint.key && other.effect == taint.effect) {
            let shown = format!("duplicated taints with the same key and effect: {}", taint.show());
            return Err(Error::misuse("taint", &shown));
        }
        add.push(taint);
    }
    let both: Vec<String> = add
        .iter()
        .filter(|taint| remove.iter().any(|gone| gone.is(&taint.to_json())))
        .map(Taint::show)
        .collect();
    if !both.is_empty() {
        let shown = both.join(", ");
        return Err(Error::usage(format!(
            "can not both modify and remove the following taint(s) in the same command: {shown}"
        )));
    }
    Ok((add, remove))
}

async fn taint(app: &App, args: &Args) -> Result<(), Error> {
    let is_spec = |word: &String| word.contains('=') || word.contains(':') || word.ends_with('-');
    let start = args.words.iter().position(is_spec).unwrap_or(args.words.len());
    let (names, specs) = args.words.split_at(start);
    if let Some(word) = specs.iter().find(|word| !is_spec(word)) {
        return Err(Error::usage(format!("all resources must be specified before taint changes: {word}")));
    }
    let Some(kind) = names.first() else {
        return Err(Error::usage("one or more resources must be specified as <resource> <name>"));
    };
    if specs.is_empty() {
        return Err(Error::usage("at least one taint update is required"));
    }
    let (add, remove) = taints(specs)?;
    let kind = kind.split('/').next().unwrap_or(kind);
    if app.kinds().await?.resource(kind)?.resource.gvr.resource != "nodes" {
        return Err(Error::usage(format!("invalid resource type {kind}, only node types are supported")));
    }
    if names.len() == 1 && !names[0].contains('/') && !args.on("all") && !args.given("selector") {
        return Err(Error::usage(
            "at least one resource name must be specified since 'all' parameter is not set",
        ));
    }
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-taint")?);
    let mut errors = Vec::new();
    for mut info in change::objects(app, args, names).await? {
        let mut object = info.object.clone();
        match tainted(&mut object, &add, &remove, args.on("overwrite")) {
            Ok(operation) => {
                info.object = change::send(app, args, &info, &object, &write).await?.object;
                done.show_info(app, &info, operation)?;
            }
            Err(error) => errors.push(error),
        }
    }
    Error::all(errors)
}

fn tainted(
    node: &mut Value,
    add: &[Taint],
    remove: &[Taint],
    overwrite: bool,
) -> Result<&'static str, Error> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut held = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if !overwrite {
        let taken: Vec<String> =
            add.iter().filter(|taint| held.iter().any(|other| taint.is(other))).map(Taint::show).collect();
        if !taken.is_empty() {
            let taken = taken.join(",");
            let why = format!(
                "node {name} already has {taken} taint(s) with same effect(s) and --overwrite is false"
            );
            return Err(Error::state(why));
        }
    }
    for gone in remove {
        let before = held.len();
        held.retain(|other| !gone.is(other));
        if held.len() == before {
            return Err(Error::state(format!("taint {:?} not found", gone.show())));
        }
    }
    let mut all: Vec<Value> = add.iter().map(Taint::to_json).collect();
    held.retain(|other| !add.iter().any(|taint| taint.is(other)));
    all.extend(held);
    node["spec"]["taints"] = json!(all);
    Ok(match (add.is_empty(), remove.is_empty()) {
        (false, false) => "modified",
        (false, true) => "tainted",
        (true, _) => "untainted",
    })
}

async fn nodes(app: &App, args: &Args, command: &str) -> Result<Vec<Info>, Error> {
    if args.words.is_empty() && !args.given("selector") {
        return Err(Error::misuse(command, &format!("USAGE: {command} NODE [flags]")));
    }
    if !args.words.is_empty() && args.given("selector") {
        return Err(Error::misuse(command, "error: cannot specify both a node name and a --selector option"));
    }
    let mut words = args.words.clone();
    if words.iter().all(|word| !word.contains('/')) {
        words.insert(0, "nodes".to_owned());
    }
    select::objects(app, args, &Selector { words: &words, ..Selector::default() }).await
}

async fn cordon(app: &App, args: &Args) -> Result<(), Error> {
    for info in nodes(app, args, "cordon").await? {
        set_unschedulable(app, args, &info, true).await?;
    }
    Ok(())
}

async fn uncordon(app: &App, args: &Args) -> Result<(), Error> {
    for info in nodes(app, args, "uncordon").await? {
        set_unschedulable(app, args, &info, false).await?;
    }
    Ok(())
}

async fn set_unschedulable(app: &App, args: &Args, info: &Info, on: bool) -> Result<(), Error> {
    let done = Done::of(args)?;
    let words = if on { ("cordoned", "already cordoned") } else { ("uncordoned", "already uncordoned") };
    if (info.object["spec"]["unschedulable"] == true) == on {
        return done.show_info(app, info, words.1);
    }
    let write = Write { dry_run: DryRun::of(args)?, ..Write::default() };
    if write.dry_run != DryRun::Client {
        let value = if on { json!(true) } else { Value::Null };
        let patch = Patch::Strategic(json!({"spec": {"unschedulable": value}}));
        request::patch(app.client()?, &info.kind.resource, ("", &info.name, ""), &patch, &write).await?;
    }
    done.show_info(app, info, words.0)
}

/// What becomes of a pod on a drained node.
#[derive(Debug, PartialEq)]
enum Fate {
    Evict,
    /// Left, with a note.
    Leave(&'static str),
    /// Stands in the way, with the flag that would help.
    Refuse(&'static str),
}

fn fate(pod: &Value, args: &Args, daemon_set_exists: bool) -> Fate {
    let meta = &pod["metadata"];
    if meta["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Fate::Leave("");
    }
    let finished = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
    let owners = meta["ownerReferences"].as_array();
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    if let Some(owner) = controller
        && owner["kind"] == "DaemonSet"
        && !finished
    {
        if !daemon_set_exists {
            return if args.on("force") { Fate::Evict } else { Fate::Refuse("force") };
        }
        return if args.on("ignore-daemonsets") {
            Fate::Leave("daemonsets")
        } else {
            Fate::Refuse("daemonsets")
        };
    }
    let local =
        pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| volume["emptyDir"].is_object());
    if local && !finished && !args.on("delete-emptydir-data") {
        return Fate::Refuse("emptydir");
    }
    if controller.is_none() && !finished && !args.on("force") {
        return Fate::Refuse("force");
    }
    Fate::Evict
}

async fn drain(app: &App, args: &Args) -> Result<(), Error> {
    let infos = nodes(app, args, "drain").await?;
    for info in &infos {
        set_unschedulable(app, args, info, true).await?;
    }
    let mut errors = Vec::new();
    for (at, info) in infos.iter().enumerate() {
        match drain_node(app, args, info).await {
            Ok(()) => {
                Done::of(args)?.show_info(app, info, "drained")?;
            }
            Err(error) => {
                let (text, _) = error.report(&app.server());
                let name = &info.name;
                app.err.line(&format!(
                    "error: unable to drain node {name:?} due to error: {}, continuing command...",
                    text.trim_start_matches("error: ")
                ));
                app.err.line("There are pending nodes to be drained:");
                for waiting in &infos[at..] {
                    app.err.line(&format!(" {}", waiting.name));
                }
                errors.push(Error::Bare { message: text.trim_start_matches("error: ").to_owned(), code: 1 });
            }
        }
    }
    Error::all(errors)
}

async fn drain_node(app: &App, args: &Args, node: &Info) -> Result<(), Error> {
    let row = app.kinds().await?.resource("pods")?;
    let select = request::Select {
        labels: args.text("pod-selector").to_owned(),
        fields: format!("spec.nodeName={}", node.name),
        page: args.number("chunk-size"),
    };
    let list = request::list(app.client()?, &row.resource.gvr.path("", ""), &select, "", &[]).await?;
    let (mut evicted, mut left, mut refused): (Vec<Info>, Vec<String>, Vec<(&str, String)>) =
        Default::default();
    for pod in select::items(&list) {
        let exists = daemon_set_exists(app, &pod).await?;
        let info = select::info_of(&row, pod);
        let title = format!("{}/{}", info.namespace, info.name);
        match fate(&info.object, args, exists) {
            Fate::Evict => evicted.push(info),
            Fate::Leave("") => {}
            Fate::Leave(_) => left.push(title),
            Fate::Refuse(why) => refused.push((why, title)),
        }
    }
    let mut reasons = Vec::new();
    for (why, text) in [
        ("daemonsets", "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"),
        ("emptydir", "Pods with local storage (use --delete-emptydir-data to override)"),
        ("force", "Pods that declare no controller (use --force to override)"),
    ] {
        let titles: Vec<&str> =
            refused.iter().filter(|(other, _)| *other == why).map(|(_, title)| title.as_str()).collect();
        if !titles.is_empty() {
            reasons.push(Error::state(format!("cannot delete {text}: {}", titles.join(", "))));
        }
    }
    Error::all(reasons)?;
    if !left.is_empty() {
        app.err.line(&format!("Warning: ignoring DaemonSet-managed Pods: {}", left.join(", ")));
    }
    let dry_run = DryRun::of(args)?;
    for info in &evicted {
        let verb = if args.on("disable-eviction") { "deleting" } else { "evicting" };
        app.out.line(&format!("{verb} pod {}/{}{}", info.namespace, info.name, dry_run.suffix()));
    }
    if dry_run == DryRun::Client {
        return Ok(());
    }
    let work = futures::future::join_all(evicted.iter().map(|info| evict(app, args, info, dry_run)));
    let errors = work.await.into_iter().filter_map(Result::err).collect();
    Error::all(errors)
}

async fn daemon_set_exists(app: &App, pod: &Value) -> Result<bool, Error> {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["kind"] == "DaemonSet" && owner["controller"] == true);
    let Some(name) = owner.and_then(|owner| owner["name"].as_str()) else { return Ok(false) };
    let row = app.kinds().await?.resource("daemonsets.apps")?;
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let got = request::get(app.client()?, &row.resource, namespace, name, "").await;
    Ok(client::client::absent(got)?.is_some())
}

async fn evict(app: &App, args: &Args, info: &Info, dry_run: DryRun) -> Result<(), Error> {
    let grace = args.number("grace-period");
    let mut options = DeleteOptions { dry_run: dry_run == DryRun::Server, ..DeleteOptions::default() };
    if grace >= 0 {
        options = options.grace(grace);
    }
    let limit = args.time("timeout");
    let limit = if limit.is_zero() { wait::LONGEST } else { limit };
    let uid = info.object["metadata"]["uid"].as_str().unwrap_or_default();
    let work = async {
        loop {
            let client = app.client()?;
            let sent = if args.on("disable-eviction") {
                let how = options.clone().propagate(Propagation::Background);
                client.delete_at(&info.kind.resource.gvr, &info.namespace, &info.name, &how).await.map(drop)
            } else {
                client.evict(&info.namespace, &info.name, &options).await
            };
            match sent {
                Ok(()) => break,
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is(api::Reason::TooManyRequests) => {
                    app.err.line(&format!(
                        "error when evicting pods/{:?} -n {:?} (will retry after 5s): {error}",
                        info.name, info.namespace
                    ));
                    app.clock.sleep(Duration::from_secs(5)).await;
                }
                Err(error) => {
                    let place = format!("error when evicting pods/{:?} -n {:?}", info.name, info.namespace);
                    return Err(Error::state(format!("{place}: {error}")));
                }
            }
        }
        if dry_run == DryRun::No {
            wait::until_gone(app, info, uid, Duration::ZERO).await?;
            app.out.line(&format!(
                "pod/{} {}",
                info.name,
                if args.on("disable-eviction") { "deleted" } else { "evicted" }
            ));
        }
        Ok(())
    };
    match app.clock.timeout(limit, work).await {
        Some(outcome) => outcome,
        None => Err(Error::state(format!(
            "error when evicting pods/{:?} -n {:?}: global timeout reached: {}s",
            info.name,
            info.namespace,
            flags::duration(args.text("timeout")).unwrap_or_default().as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(texts: &[&str]) -> Result<(Vec<Taint>, Vec<Taint>), String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        taints(&texts).map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn taints_are_read_and_applied() {
        let (add, remove) = specs(&["a=b:NoSchedule", "c:NoExecute", "d-"]).expect("specs");
        let mut node =
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "d", "effect": "NoExecute"}]}});
        assert_eq!(tainted(&mut node, &add, &remove, false).expect("tainted"), "modified");
        assert_eq!(node["spec"]["taints"].as_array().map(Vec::len), Some(2));
        let again = tainted(&mut node, &add[..1], &[], false).expect_err("there already").to_string();
        assert_eq!(
            again,
            "node n already has a:NoSchedule taint(s) with same effect(s) and --overwrite is false"
        );
        for (texts, expect) in [
            (["a=b", "c-"], "invalid taint spec: a=b"),
            (["a=b:Nope", "c-"], "invalid taint effect: Nope, unsupported taint effect"),
            (
                ["a=b:NoExecute", "a-"],
                "can not both modify and remove the following taint(s) in the same command: a:NoExecute",
            ),
        ] {
            assert_eq!(specs(&texts).expect_err("a mistake"), expect);
        }
    }

    #[test]
    fn fates_of_pods() {
        let args = |line: &[&str]| {
            let line: Vec<String> = line.iter().map(|text| (*text).to_owned()).collect();
            Args::parse(&line, &[DRAIN]).expect("reads")
        };
        let owned =
            |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        assert_eq!(fate(&owned("ReplicaSet"), &args(&[]), false), Fate::Evict);
        assert_eq!(fate(&owned("DaemonSet"), &args(&[]), true), Fate::Refuse("daemonsets"));
        assert_eq!(
            fate(&owned("DaemonSet"), &args(&["--ignore-daemonsets"]), true),
            Fate::Leave("daemonsets")
        );
        assert_eq!(fate(&json!({"metadata": {}}), &args(&[]), false), Fate::Refuse("force"));
        assert_eq!(fate(&json!({"metadata": {}}), &args(&["--force"]), false), Fate::Evict);
        let mut local = owned("ReplicaSet");
        local["spec"]["volumes"] = json!([{"emptyDir": {}}]);
        assert_eq!(fate(&local, &args(&[]), false), Fate::Refuse("emptydir"));
    }
}

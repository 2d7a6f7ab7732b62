//! `scale`, `autoscale` and `expose`.

use client::client::Patch;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{ALL, Command, FILES, Group, LABELS, PRINT, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::{Done, table::labels_text};
use crate::request::{self, DryRun, Write};
use crate::select::{self, Info, Selector};
use crate::verbs::create::int_or_text;
use crate::verbs::{run, wait};

const SCALE: &[Flag] = &[
    flag("current-replicas", Takes::Number, "-1", "Only if it has this many"),
    flag("replicas", Takes::Number, "-1", "How many"),
    flag("resource-version", Takes::Text, "", "Only if the object has this version"),
    flag("timeout", Takes::Time, "0s", "How long to wait until it has them; 0 = do not wait"),
    flag("dry-run", Takes::Optional("unchanged"), "none", "none, server or client: only try"),
];
const AUTOSCALE: &[Flag] = &[
    flag("cpu", Takes::Text, "", "Target of CPU: 80% or 500m"),
    flag("cpu-percent", Takes::Number, "-1", "Target of CPU, in percent of requests"),
    flag("max", Takes::Number, "-1", "The most pods"),
    flag("memory", Takes::Text, "", "Target of memory: 80% or 500Mi"),
    flag("min", Takes::Number, "-1", "The fewest pods"),
    flag("name", Takes::Text, "", "The autoscaler's name"),
];
const EXPOSE: &[Flag] = &[
    flag("cluster-ip", Takes::Text, "", "The address, or None"),
    flag("external-ip", Takes::Text, "", "Another address"),
    crate::flags::short("labels", 'l', Takes::Text, "", "Labels of the service"),
    flag("load-balancer-ip", Takes::Text, "", "The load balancer's address"),
    flag("name", Takes::Text, "", "The service's name"),
    flag("overrides", Takes::Text, "", "JSON to merge into the service"),
    flag("override-type", Takes::Text, "merge", "Accepted for compatibility: always merge"),
    flag("port", Takes::Text, "", "The service's port"),
    flag("protocol", Takes::Text, "", "TCP, UDP or SCTP"),
    flag("save-config", Takes::Switch, "false", "Remember the configuration for apply"),
    flag("selector", Takes::Text, "", "The pods; otherwise those of the object"),
    flag("session-affinity", Takes::Text, "", "None or ClientIP"),
    flag("target-port", Takes::Text, "", "The containers' port"),
    flag("type", Takes::Text, "", "ClusterIP, NodePort or LoadBalancer"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "scale",
        aliases: &[],
        group: Group::Deploy,
        usage: "[--resource-version=version] [--current-replicas=count] --replicas=COUNT (-f FILENAME | TYPE NAME)",
        about: "Set a new size for a deployment, replica set, or replication controller",
        examples: "kubectl scale --replicas=3 rs/foo",
        flags: &[PRINT, FILES, LABELS, ALL, SCALE],
        run: run!(scale),
    },
    Command {
        name: "autoscale",
        aliases: &[],
        group: Group::Deploy,
        usage: "(-f FILENAME | TYPE NAME | TYPE/NAME) [--min=MINPODS] --max=MAXPODS [--cpu=CPU]",
        about: "Auto-scale a deployment, replica set, stateful set, or replication controller",
        examples: "kubectl autoscale deployment foo --min=2 --max=10 --cpu=80%",
        flags: &[PRINT, FILES, WRITE, AUTOSCALE],
        run: run!(autoscale),
    },
    Command {
        name: "expose",
        aliases: &[],
        group: Group::Beginner,
        usage: "(-f FILENAME | TYPE NAME) [--port=port] [--target-port=number-or-name] [--name=name]",
        about: "Take a replication controller, service, deployment or pod and expose it as a new Kubernetes service",
        examples: "kubectl expose deployment nginx --port=80 --target-port=8000",
        flags: &[PRINT, FILES, WRITE, EXPOSE],
        run: run!(expose),
    },
];

async fn scale(app: &App, args: &Args) -> Result<(), Error> {
    let count = args.number("replicas");
    if !args.given("replicas") {
        return Err(Error::usage("required flag(s) \"replicas\" not set"));
    }
    if count < 0 {
        return Err(Error::usage(
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
        ));
    }
    let current = args.number("current-replicas");
    if current < -1 {
        return Err(Error::usage("The --current-replicas must specify an integer of -1 or greater"));
    }
    let done = Done::of(args)?;
    let how = Selector { words: &args.words, all: args.on("all"), ..Selector::default() };
    let infos = select::objects(app, args, &how).await?;
    if infos.is_empty() {
        return Err(Error::usage("no objects passed to scale"));
    }
    let version = args.text("resource-version");
    if infos.len() > 1 && !version.is_empty() {
        return Err(Error::usage("cannot use --resource-version with multiple resources"));
    }
    let write =
        Write { manager: "kubectl-scale".to_owned(), dry_run: DryRun::of(args)?, validation: String::new() };
    for info in infos {
        let client = app.client()?;
        let resource = &info.kind.resource;
        if write.dry_run == DryRun::Client {
            done.show_info(app, &info, "scaled")?;
            continue;
        }
        if current >= 0 || !version.is_empty() {
            let scale = request::get(client, resource, &info.namespace, &info.name, "scale").await?;
            expected(&scale, current, version)?;
        }
        let mut body = json!({"spec": {"replicas": count}});
        if !version.is_empty() {
            body["metadata"]["resourceVersion"] = json!(version);
        }
        let at = (info.namespace.as_str(), info.name.as_str(), "scale");
        request::patch(client, resource, at, &Patch::Merge(body), &write).await?;
        if !args.time("timeout").is_zero() && write.dry_run == DryRun::No {
            until_scaled(app, args, &info, count).await?;
        }
        done.show_info(app, &info, "scaled")?;
    }
    Ok(())
}

fn expected(scale: &Value, count: i64, version: &str) -> Result<(), Error> {
    let has = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if count >= 0 && has != count {
        return Err(Error::state(format!("Expected replicas to be {count}, was {has}")));
    }
    let known = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && known != version {
        return Err(Error::state(format!("Expected resource version to be {version}, was {known}")));
    }
    Ok(())
}

async fn until_scaled(app: &App, args: &Args, info: &Info, count: i64) -> Result<(), Error> {
    let reached = |object: Option<&Value>| {
        let status = object.and_then(|object| object.pointer("/status/replicas")).and_then(Value::as_i64);
        Ok((status.unwrap_or(0) == count).then_some(()))
    };
    let title = info.title();
    let late = || Error::state(format!("timed out waiting for {title:?} to be synced"));
    wait::until(app, info, args.time("timeout"), reached).await?.ok_or_else(late)
}

async fn autoscale(app: &App, args: &Args) -> Result<(), Error> {
    let (least, most) = (args.number("min"), args.number("max"));
    if !args.given("max") {
        return Err(Error::usage("required flag(s) \"max\" not set"));
    }
    if most < 1 {
        return Err(Error::usage(format!("--max=MAXPODS is required and must be at least 1, max: {most}")));
    }
    if most < least {
        return Err(Error::usage(format!(
            "--max=MAXPODS must be larger or equal to --min=MINPODS, max: {most}, min: {least}"
        )));
    }
    if args.given("cpu-percent") && args.given("cpu") {
        return Err(Error::usage("--cpu-percent and --cpu are mutually exclusive"));
    }
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-autoscale")?);
    let infos = select::objects(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    for info in infos {
        let object = autoscaler(args, &info)?;
        if write.dry_run == DryRun::Client {
            done.show(app, &object, "autoscaled")?;
            continue;
        }
        let kind = app.kinds().await?.of_type("autoscaling/v2", "HorizontalPodAutoscaler").cloned();
        let kind = kind.ok_or_else(|| Error::state("the server has no autoscaling/v2"))?;
        let made = request::create(app.client()?, &kind.resource, &info.namespace, &object, &write).await?;
        done.show(app, &made, "autoscaled")?;
    }
    Ok(())
}

fn autoscaler(args: &Args, info: &Info) -> Result<Value, Error> {
    let resource = &info.kind.resource;
    if !info.kind.subresources.iter().any(|sub| sub == "scale") {
        return Err(Error::state(format!("cannot autoscale a {}: it has no scale", resource.kind)));
    }
    let name = args.text_if("name").unwrap_or(&info.name);
    let mut metrics = Vec::new();
    let percent = args.number("cpu-percent");
    let cpu = if percent >= 0 { format!("{percent}%") } else { args.text("cpu").to_owned() };
    for (resource, target) in [("cpu", cpu.as_str()), ("memory", args.text("memory"))] {
        if !target.is_empty() {
            metrics.push(json!({"type": "Resource", "resource": {"name": resource, "target": target_of(resource, target)?}}));
        }
    }
    let mut object = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": info.namespace},
        "spec": {
            "maxReplicas": args.number("max"),
            "scaleTargetRef": {"apiVersion": resource.api_version(), "kind": resource.kind, "name": info.name},
        },
        "status": {"currentMetrics": null, "desiredReplicas": 0},
    });
    if args.number("min") > 0 {
        object["spec"]["minReplicas"] = json!(args.number("min"));
    }
    if !metrics.is_empty() {
        object["spec"]["metrics"] = json!(metrics);
    }
    Ok(object)
}

fn target_of(resource: &str, text: &str) -> Result<Value, Error> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: i64 =
            percent.parse().map_err(|_| Error::usage(format!("invalid percentage value: {percent}")))?;
        return Ok(json!({"type": "Utilization", "averageUtilization": percent}));
    }
    let wrong = |_| Error::usage(format!("invalid resource {resource} value: {text}"));
    let amount: api::quantity::Quantity = text.parse().map_err(wrong)?;
    Ok(json!({"type": "AverageValue", "averageValue": amount.to_string()}))
}

async fn expose(app: &App, args: &Args) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-expose")?);
    // -l is no selector here: it names labels of the service.
    let mut plain = args.clone();
    plain.put("selector", "");
    let infos = select::objects(app, &plain, &Selector { words: &args.words, ..Selector::default() }).await?;
    for info in infos {
        let mut object = service(args, &info)?;
        if let Some(text) = args.text_if("overrides") {
            let overrides = serde_json::from_str(text)
                .map_err(|error| Error::usage(format!("invalid overrides: {error}")))?;
            object = machinery::patch::merge_patch(&object, &overrides);
        }
        if app.namespace_given() {
            object["metadata"]["namespace"] = json!(info.namespace);
        }
        if args.on("save-config") {
            crate::verbs::apply::remember(&mut object);
        }
        if write.dry_run == DryRun::Client {
            done.show(app, &object, "exposed")?;
            continue;
        }
        let kind = app.kinds().await?.resource("services")?;
        let made = request::create(app.client()?, &kind.resource, &info.namespace, &object, &write).await?;
        done.show(app, &made, "exposed")?;
    }
    Ok(())
}

/// The labels that select an object's pods.
pub fn selector_of(info: &Info) -> Result<String, Error> {
    let object = &info.object;
    let labels = match info.kind.resource.kind.as_str() {
        "Pod" => &object["metadata"]["labels"],
        "Service" | "ReplicationController" => &object["spec"]["selector"],
        "Deployment" | "ReplicaSet" => {
            let expressions = object["spec"]["selector"]["matchExpressions"].as_array();
            if expressions.is_some_and(|expressions| !expressions.is_empty()) {
                return Err(Error::input(
                    "couldn't retrieve selectors via --selector flag or introspection: couldn't convert expressions",
                ));
            }
            &object["spec"]["selector"]["matchLabels"]
        }
        kind => {
            let group = api::meta::group_resource(&info.kind.resource.gvr.group, kind);
            return Err(Error::state(format!("cannot expose a {group}")));
        }
    };
    match labels.as_object() {
        Some(pairs) if !pairs.is_empty() => Ok(labels_text(labels)),
        _ if info.kind.resource.kind == "Pod" => Err(Error::input(
            "couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed",
        )),
        _ => {
            Err(Error::input("couldn't retrieve selectors via --selector flag or introspection: no selector"))
        }
    }
}

/// Ports of an object with their protocols.
fn ports_of(info: &Info) -> Vec<(i64, String)> {
    let object = &info.object;
    let mut found = Vec::new();
    let mut add = |port: &Value, number: &str| {
        if let Some(number) = port[number].as_i64() {
            found.push((number, port["protocol"].as_str().unwrap_or("TCP").to_owned()));
        }
    };
    if info.kind.resource.kind == "Service" {
        object["spec"]["ports"].as_array().into_iter().flatten().for_each(|port| add(port, "port"));
        return found;
    }
    let spec =
        if info.kind.resource.kind == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    for container in spec["containers"].as_array().into_iter().flatten() {
        container["ports"].as_array().into_iter().flatten().for_each(|port| add(port, "containerPort"));
    }
    found
}

fn labels(text: &str) -> Result<Map<String, Value>, Error> {
    let parts: Vec<String> = text.split(',').map(str::to_owned).collect();
    crate::verbs::create::pairs(&parts, |part| format!("unexpected label spec: {part}"))
}

/// The service's ports; a port of several protocols becomes several.
fn entries(args: &Args, ports: &[i64], known: &[(i64, String)]) -> Vec<Value> {
    let mut entries: Vec<Value> = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let mut protocols: Vec<&str> = known
            .iter()
            .filter(|(number, _)| number == port)
            .map(|(_, protocol)| protocol.as_str())
            .collect();
        if let Some(given) = args.text_if("protocol") {
            protocols = vec![given];
        } else if protocols.is_empty() {
            protocols = vec!["TCP"];
        }
        for protocol in &protocols {
            let target = args.text_if("target-port").map_or_else(|| json!(port), int_or_text);
            let mut entry = json!({"port": port, "protocol": protocol, "targetPort": target});
            if protocols.len() > 1 {
                entry["name"] = json!(format!("port-{}-{}", at + 1, protocol.to_lowercase()));
            } else if ports.len() > 1 {
                entry["name"] = json!(format!("port-{}", at + 1));
            }
            entries.push(entry);
        }
    }
    entries
}

fn service(args: &Args, info: &Info) -> Result<Value, Error> {
    let selector = match args.text_if("selector") {
        Some(text) => text.to_owned(),
        None => selector_of(info)?,
    };
    let known = ports_of(info);
    let headless = args.text("cluster-ip") == "None";
    let ports: Vec<i64> = match args.text_if("port") {
        Some(text) => {
            let wrong = |_| Error::usage(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
            text.split(',').map(|port| port.parse().map_err(wrong)).collect::<Result<_, _>>()?
        }
        None => known.iter().map(|(port, _)| *port).collect(),
    };
    if ports.is_empty() && !headless {
        return Err(Error::usage("couldn't find port via --port flag or introspection"));
    }
    let entries = entries(args, &ports, &known);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": args.text_if("name").unwrap_or(&info.name)},
        "spec": {"selector": labels(&selector)?},
        "status": {"loadBalancer": {}},
    });
    let own = match args.text_if("labels") {
        Some(text) => Value::Object(labels(text)?),
        None => info.object["metadata"]["labels"].clone(),
    };
    if own.as_object().is_some_and(|own| !own.is_empty()) {
        object["metadata"]["labels"] = own;
    }
    if !entries.is_empty() {
        object["spec"]["ports"] = json!(entries);
    }
    for (flag, field) in [
        ("type", "type"),
        ("session-affinity", "sessionAffinity"),
        ("cluster-ip", "clusterIP"),
        ("load-balancer-ip", "loadBalancerIP"),
    ] {
        if let Some(text) = args.text_if(flag) {
            object["spec"][field] = json!(text);
        }
    }
    if let Some(address) = args.text_if("external-ip") {
        object["spec"]["externalIPs"] = json!([address]);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(target_of("cpu", "80%").expect("a target")["averageUtilization"], 80);
        assert_eq!(target_of("memory", "1Gi").expect("a target")["averageValue"], "1Gi");
        assert_eq!(
            target_of("cpu", "x").expect_err("no amount").to_string(),
            "invalid resource cpu value: x"
        );
    }
}

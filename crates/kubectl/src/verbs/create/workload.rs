//! `create deployment | job | cronjob | service | ingress | pdb`.

use serde_json::{Value, json};

use super::{finish, generator, int_or_text, name, start};
use crate::app::App;
use crate::commands::Command;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::{Error, request};

const DEPLOYMENT: &[Flag] = &[
    flag("image", Takes::List, "", "Image; several make several containers"),
    flag("port", Takes::Number, "-1", "The port the container listens on"),
    short("replicas", 'r', Takes::Number, "1", "Number of pods"),
];
const JOB: &[Flag] = &[
    flag("image", Takes::Text, "", "Image"),
    flag("from", Takes::Text, "", "Take the template of cronjob/NAME"),
];
const CRONJOB: &[Flag] = &[
    flag("image", Takes::Text, "", "Image"),
    flag("schedule", Takes::Text, "", "When, in cron format"),
    flag("restart", Takes::Text, "", "OnFailure or Never"),
];
const SERVICE: &[Flag] = &[
    flag("tcp", Takes::List, "", "Ports as port:targetPort"),
    flag("clusterip", Takes::Text, "", "The address, or None"),
    flag("node-port", Takes::Number, "0", "The port on nodes"),
    flag("external-name", Takes::Text, "", "The name of an ExternalName service"),
];
const INGRESS: &[Flag] = &[
    flag("class", Takes::Text, "", "The ingress class"),
    flag("rule", Takes::Each, "", "host/path=service:port[,tls[=secret]]"),
    flag("default-backend", Takes::Text, "", "service:port for everything else"),
    flag("annotation", Takes::Each, "", "annotation=value"),
];
const BUDGET: &[Flag] = &[
    flag("min-available", Takes::Text, "", "Number or share of pods that must stay"),
    flag("max-unavailable", Takes::Text, "", "Number or share of pods that may go"),
    flag("selector", Takes::Text, "", "The pods, by labels"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    generator!(
        "deployment",
        &["deploy", "dep"],
        "NAME --image=image -- [COMMAND] [args...]",
        "Create a deployment with the specified name",
        DEPLOYMENT,
        |app, args| Box::pin(async move {
            finish(app, args, deployment(app, args), "failed to create deployment: ").await
        })
    ),
    generator!(
        "job",
        &[],
        "NAME --image=image [--from=cronjob/name] -- [COMMAND] [args...]",
        "Create a job with the specified name",
        JOB,
        |app, args| Box::pin(async move {
            finish(app, args, job(app, args).await, "failed to create job: ").await
        })
    ),
    generator!(
        "cronjob",
        &["cj"],
        "NAME --image=image --schedule='0/5 * * * ?' -- [COMMAND] [args...]",
        "Create a cron job with the specified name",
        CRONJOB,
        |app, args| Box::pin(async move {
            finish(app, args, cronjob(app, args), "failed to create cronjob: ").await
        })
    ),
    generator!(
        "service",
        &["svc"],
        "(clusterip | nodeport | loadbalancer | externalname) NAME",
        "Create a service using a specified subcommand",
        SERVICE,
        |app, args| Box::pin(create_service(app, args))
    ),
    generator!(
        "ingress",
        &["ing"],
        "NAME --rule=host/path=service:port[,tls[=secret]]",
        "Create an ingress with the specified name",
        INGRESS,
        |app, args| Box::pin(async move {
            finish(app, args, ingress(app, args), "failed to create ingress: ").await
        })
    ),
    generator!(
        "poddisruptionbudget",
        &["pdb"],
        "NAME --selector=SELECTOR --min-available=N",
        "Create a pod disruption budget with the specified name",
        BUDGET,
        |app, args| Box::pin(async move {
            finish(app, args, budget(app, args), "failed to create poddisruptionbudgets: ").await
        })
    ),
];

/// A container's name from its image.
pub fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let bare = last.split([':', '@']).next().unwrap_or(last);
    let clean: String = bare
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    clean.trim_matches('-').to_owned()
}

fn required(what: &str) -> Error {
    Error::usage(format!("required flag(s) {what:?} not set"))
}

fn deployment(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (images, command) = (args.list("image"), args.split().1);
    if images.is_empty() {
        return Err(required("image"));
    }
    if images.len() > 1 && !command.is_empty() {
        return Err(Error::usage("cannot specify multiple --image options and command"));
    }
    let mut containers: Vec<Value> = Vec::new();
    for image in &images {
        let mut called = container_name(image);
        if containers.iter().any(|container| container["name"] == called) {
            called = format!("{called}-{}", app.rng.suffix(5));
        }
        let mut container = json!({"name": called, "image": image, "resources": {}});
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        containers.push(container);
    }
    if args.number("port") >= 0 {
        containers[0]["ports"] = json!([{"containerPort": args.number("port")}]);
    }
    let labels = json!({"app": name});
    let mut object = start(app, "apps/v1", "Deployment", name, true);
    object["metadata"]["labels"] = labels.clone();
    object["spec"] = json!({
        "replicas": args.number("replicas"),
        "selector": {"matchLabels": labels},
        "strategy": {},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    });
    object["status"] = json!({});
    Ok(object)
}

async fn job(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (image, from, command) = (args.text("image"), args.text("from"), args.split().1);
    if image.is_empty() == from.is_empty() {
        return Err(Error::usage("either --image or --from must be specified"));
    }
    if !from.is_empty() && !command.is_empty() {
        return Err(Error::usage("cannot specify --from and command"));
    }
    let mut object = start(app, "batch/v1", "Job", name, true);
    object["status"] = json!({});
    if from.is_empty() {
        object["spec"] = json!({"template": job_template(name, image, command, "Never")});
        return Ok(object);
    }
    let (kind, source) = crate::select::split_title(from)?;
    let kind = app.kinds().await?.resource(kind)?;
    if kind.resource.kind != "CronJob" {
        return Err(Error::usage("from must be an existing cronjob"));
    }
    let cronjob = request::get(app.client()?, &kind.resource, &app.namespace()?, source, "").await?;
    let template = &cronjob["spec"]["jobTemplate"];
    let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), json!("manual"));
    object["metadata"]["annotations"] = Value::Object(annotations);
    if let Some(labels) = template["metadata"].get("labels") {
        object["metadata"]["labels"] = labels.clone();
    }
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "CronJob", "name": cronjob["metadata"]["name"],
        "uid": cronjob["metadata"]["uid"], "controller": true,
    }]);
    object["spec"] = template["spec"].clone();
    Ok(object)
}

fn job_template(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}})
}

fn cronjob(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    for flag in ["image", "schedule"] {
        if args.text(flag).is_empty() {
            return Err(required(flag));
        }
    }
    let restart = args.text_if("restart").unwrap_or("OnFailure");
    let mut object = start(app, "batch/v1", "CronJob", name, true);
    object["spec"] = json!({
        "schedule": args.text("schedule"),
        "jobTemplate": {
            "metadata": {"name": name},
            "spec": {"template": job_template(name, args.text("image"), args.split().1, restart)},
        },
    });
    object["status"] = json!({});
    Ok(object)
}

async fn create_service(app: &App, args: &Args) -> Result<(), Error> {
    let kind = match args.words.first().map(String::as_str) {
        Some("clusterip") => "ClusterIP",
        Some("nodeport") => "NodePort",
        Some("loadbalancer") => "LoadBalancer",
        Some("externalname") => "ExternalName",
        _ => {
            return Err(Error::usage(
                "exactly one of clusterip, nodeport, loadbalancer, externalname is required",
            ));
        }
    };
    let rest = args.with_words(&args.words[1..]);
    finish(app, args, service(app, &rest, kind), &format!("failed to create {kind} service: ")).await
}

fn service(app: &App, args: &Args, kind: &str) -> Result<Value, Error> {
    let name = name(args)?;
    let headless = args.text("clusterip") == "None";
    let mut ports = Vec::new();
    for text in args.list("tcp") {
        ports.push(port(&text, args.number("node-port"))?);
    }
    if headless && kind != "ClusterIP" {
        return Err(Error::usage("ClusterIP=None can only be used with ClusterIP service type"));
    }
    if ports.is_empty() && !headless && kind != "ExternalName" {
        return Err(Error::usage("at least one tcp port specifier must be provided"));
    }
    let labels = json!({"app": name});
    let mut object = start(app, "v1", "Service", name, true);
    object["metadata"]["labels"] = labels.clone();
    object["spec"] = json!({"selector": labels, "type": kind});
    if !ports.is_empty() {
        object["spec"]["ports"] = json!(ports);
    }
    if let Some(address) = args.text_if("clusterip") {
        object["spec"]["clusterIP"] = json!(address);
    }
    if kind == "ExternalName" {
        object["spec"]["externalName"] = json!(args.text("external-name"));
    }
    object["status"] = json!({"loadBalancer": {}});
    Ok(object)
}

/// `80:8080` and `80`; the name is the text with dashes.
fn port(text: &str, node_port: i64) -> Result<Value, Error> {
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let number: i64 = port.parse().map_err(|_| Error::usage(format!("invalid port {port:?}")))?;
    let errors = match target.parse::<i64>() {
        Ok(number) => api::names::port_number(number),
        Err(_) => api::names::port_name(target),
    };
    if !errors.is_empty() {
        return Err(Error::usage(errors.join(",")));
    }
    let name = text.replace(':', "-");
    let mut port =
        json!({"name": name, "port": number, "protocol": "TCP", "targetPort": int_or_text(target)});
    if node_port > 0 {
        port["nodePort"] = json!(node_port);
    }
    Ok(port)
}

fn backend(text: &str) -> Option<Value> {
    let (service, port) =
        text.split_once(':').filter(|(service, port)| !service.is_empty() && !port.is_empty())?;
    let port = match port.parse::<i64>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    Some(json!({"service": {"name": service, "port": port}}))
}

fn ingress(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (rules, default) = (args.list("rule"), args.text("default-backend"));
    if rules.is_empty() && default.is_empty() {
        return Err(Error::usage(
            "not enough information provided: every ingress has to either specify a default-backend (which catches all \
             traffic) or a list of rules (which catch specific paths)",
        ));
    }
    let mut object = start(app, "networking.k8s.io/v1", "Ingress", name, true);
    let annotations = super::pairs(&args.list("annotation"), |text| {
        format!("annotation {text} is invalid and should be in format key=[value]")
    })?;
    if !annotations.is_empty() {
        object["metadata"]["annotations"] = Value::Object(annotations);
    }
    object["spec"] = json!({});
    if let Some(class) = args.text_if("class") {
        object["spec"]["ingressClassName"] = json!(class);
    }
    if !default.is_empty() {
        let backend = backend(default);
        let wrong = || Error::usage("default-backend should be in format servicename:serviceport");
        object["spec"]["defaultBackend"] = backend.ok_or_else(wrong)?;
    }
    let (rules, tls) = ingress_rules(&rules)?;
    if !rules.is_empty() {
        object["spec"]["rules"] = json!(rules);
    }
    if !tls.is_empty() {
        object["spec"]["tls"] = json!(tls);
    }
    object["status"] = json!({"loadBalancer": {}});
    Ok(object)
}

fn ingress_rules(texts: &[String]) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut rules, mut tls): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for text in texts {
        let wrong = || {
            Error::usage(format!(
                "rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"
            ))
        };
        let (rule, secret) = match text.split_once(',') {
            Some((rule, tls)) => (rule, Some(tls.split_once('=').map_or("", |(_, secret)| secret))),
            None => (text.as_str(), None),
        };
        let (host, rest) = rule.split_once('/').ok_or_else(wrong)?;
        let (path, service) = rest.split_once('=').ok_or_else(wrong)?;
        let backend = backend(service).ok_or_else(wrong)?;
        let path = format!("/{path}");
        let (path, kind) = match path.strip_suffix('*') {
            Some(path) => (path.to_owned(), "Prefix"),
            None => (path, "Exact"),
        };
        let entry = json!({"path": path, "pathType": kind, "backend": backend});
        let known = rules.iter_mut().find(|rule| rule["host"].as_str().unwrap_or_default() == host);
        match known.and_then(|rule| rule["http"]["paths"].as_array_mut()) {
            Some(paths) => paths.push(entry),
            None if host.is_empty() => rules.push(json!({"http": {"paths": [entry]}})),
            None => rules.push(json!({"host": host, "http": {"paths": [entry]}})),
        }
        if let Some(secret) = secret {
            add_tls(&mut tls, host, secret);
        }
    }
    Ok((rules, tls))
}

fn add_tls(tls: &mut Vec<Value>, host: &str, secret: &str) {
    let hosts = |entry: &Value| entry["hosts"].as_array().cloned().unwrap_or_default();
    if tls.iter().any(|entry| hosts(entry).contains(&json!(host))) {
        return;
    }
    let same = tls.iter_mut().find(|entry| entry["secretName"].as_str().unwrap_or_default() == secret);
    if let Some(hosts) = same.and_then(|entry| entry["hosts"].as_array_mut()) {
        hosts.push(json!(host));
        return;
    }
    let mut entry = json!({});
    if !host.is_empty() {
        entry["hosts"] = json!([host]);
    }
    if !secret.is_empty() {
        entry["secretName"] = json!(secret);
    }
    if entry != json!({}) {
        tls.push(entry);
    }
}

fn budget(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (least, most, selector) =
        (args.text("min-available"), args.text("max-unavailable"), args.text("selector"));
    if selector.is_empty() {
        return Err(Error::usage("a selector must be specified"));
    }
    if least.is_empty() && most.is_empty() {
        return Err(Error::usage("one of min-available or max-unavailable must be specified"));
    }
    if !least.is_empty() && !most.is_empty() {
        return Err(Error::usage("min-available and max-unavailable cannot be both specified"));
    }
    let mut object = start(app, "policy/v1", "PodDisruptionBudget", name, true);
    let texts: Vec<String> = selector.split(',').map(str::to_owned).collect();
    let labels = super::pairs(&texts, |_| format!("couldn't parse the selector string \"{selector}\""))?;
    object["spec"] = json!({"selector": {"matchLabels": labels}});
    let (key, value) = if least.is_empty() { ("maxUnavailable", most) } else { ("minAvailable", least) };
    object["spec"][key] = int_or_text(value);
    object["status"] =
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers() {
        for (image, expect) in [("nginx", "nginx"), ("a.io/b/c_d:1.2", "c-d"), ("x@sha256:ab", "x")] {
            assert_eq!(container_name(image), expect);
        }
    }

    #[test]
    fn ports() {
        assert_eq!(port("80:http", 0).expect("a port")["targetPort"], "http");
        assert_eq!(port("80", 30_000).expect("a port")["nodePort"], 30_000);
        assert!(port("80:99999", 0).is_err());
    }

    #[test]
    fn rules_of_ingresses() {
        let texts = ["a.b/x*=s:80,tls=t", "a.b/y=s:http", "/z=s:1"].map(str::to_owned);
        let (rules, tls) = ingress_rules(&texts).expect("rules");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0]["http"]["paths"][0]["pathType"], "Prefix");
        assert_eq!(tls, [json!({"hosts": ["a.b"], "secretName": "t"})]);
        assert!(ingress_rules(&["nope".to_owned()]).is_err());
    }
}

//! What the server is and has: `api-resources`, `api-versions`, `version`, `cluster-info`.

use client::Discovered;
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::{Command, Group};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::table::Widths;
use crate::verbs::run;
use crate::{Error, print, request};

const RESOURCES: &[Flag] = &[
    flag("api-group", Takes::Text, "", "Only this group"),
    flag("cached", Takes::Switch, "false", "Accepted for compatibility"),
    flag("categories", Takes::List, "", "Only resources in these categories"),
    flag("namespaced", Takes::Switch, "true", "Only namespaced (or, with =false, cluster-scoped) resources"),
    flag("no-headers", Takes::Switch, "false", "No header"),
    short("output", 'o', Takes::Text, "", "wide or name"),
    flag("sort-by", Takes::Text, "", "name or kind"),
    flag("verbs", Takes::List, "", "Only resources with these verbs"),
];
const VERSION: &[Flag] = &[
    flag("client", Takes::Switch, "false", "Only the client's version"),
    short("output", 'o', Takes::Text, "", "yaml or json"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "api-resources",
        aliases: &[],
        group: Group::Other,
        usage: "[flags]",
        about: "Print the supported API resources on the server",
        examples: "kubectl api-resources\nkubectl api-resources --namespaced=false -o name",
        flags: &[RESOURCES],
        run: run!(api_resources),
    },
    Command {
        name: "api-versions",
        aliases: &[],
        group: Group::Other,
        usage: "",
        about: "Print the supported API versions on the server, in the form of \"group/version\"",
        examples: "",
        flags: &[],
        run: run!(api_versions),
    },
    Command {
        name: "version",
        aliases: &[],
        group: Group::Other,
        usage: "[flags]",
        about: "Print the client and server version information",
        examples: "kubectl version\nkubectl version --client",
        flags: &[VERSION],
        run: run!(version),
    },
    Command {
        name: "cluster-info",
        aliases: &[],
        group: Group::Cluster,
        usage: "[flags]",
        about: "Display addresses of the control plane and cluster services",
        examples: "",
        flags: &[],
        run: run!(cluster_info),
    },
];

async fn api_resources(app: &App, args: &Args) -> Result<(), Error> {
    let output = args.text("output");
    if !["", "wide", "name"].contains(&output) {
        return Err(Error::usage(format!("--output {output} is not available")));
    }
    let kinds = app.kinds().await?;
    let (verbs, categories) = (args.list("verbs"), args.list("categories"));
    let mut rows: Vec<&Discovered> = kinds
        .all()
        .iter()
        .filter(|row| row.preferred)
        .filter(|row| !args.given("api-group") || row.resource.gvr.group == args.text("api-group"))
        .filter(|row| !args.given("namespaced") || row.resource.namespaced == args.on("namespaced"))
        .filter(|row| verbs.iter().all(|verb| row.can(&[verb])))
        .filter(|row| categories.iter().all(|wanted| row.categories.contains(wanted)))
        .collect();
    let by_name = |row: &&Discovered| (row.resource.gvr.group.clone(), row.resource.gvr.resource.clone());
    rows.sort_by_key(by_name);
    match args.text("sort-by") {
        "" => {}
        "name" => rows.sort_by_key(|row| row.resource.gvr.resource.clone()),
        "kind" => rows.sort_by_key(|row| row.resource.kind.clone()),
        _ => return Err(Error::usage("--sort-by accepts only name or kind")),
    }
    if output == "name" {
        for row in rows {
            app.out.line(&row.resource.gvr.group_resource());
        }
    } else {
        app.out.text(&resource_table(&rows, output == "wide", !args.on("no-headers")));
    }
    let failed: Vec<Error> = kinds
        .failed()
        .map(|(version, why)| {
            Error::state(format!("unable to retrieve the complete list of server APIs: {version}: {why}"))
        })
        .collect();
    Error::all(failed)
}

fn resource_table(rows: &[&Discovered], wide: bool, headers: bool) -> String {
    let mut table: Vec<Vec<String>> = Vec::new();
    if headers {
        let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
        if wide {
            header.extend(["VERBS", "CATEGORIES"]);
        }
        table.push(header.into_iter().map(str::to_owned).collect());
    }
    for row in rows {
        let mut cells = vec![
            row.resource.gvr.resource.clone(),
            row.short_names.join(","),
            row.resource.api_version(),
            row.resource.namespaced.to_string(),
            row.resource.kind.clone(),
        ];
        if wide {
            let mut verbs = row.verbs.clone();
            verbs.sort();
            cells.extend([verbs.join(","), row.categories.join(",")]);
        }
        table.push(cells);
    }
    Widths::default().format(&table)
}

async fn api_versions(app: &App, _: &Args) -> Result<(), Error> {
    let mut versions: Vec<String> =
        app.kinds().await?.all().iter().map(|row| row.resource.api_version()).collect();
    versions.sort();
    versions.dedup();
    for version in versions {
        app.out.line(&version);
    }
    Ok(())
}

/// What we say of ourselves.
fn own_version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

async fn version(app: &App, args: &Args) -> Result<(), Error> {
    let mut versions = json!({"clientVersion": own_version()});
    let mut problem = Ok(());
    if !args.on("client") {
        match app.client().map(|client| client.get_path::<Value>("/version")) {
            Ok(call) => match call.await {
                Ok(server) => versions["serverVersion"] = server,
                Err(error) => problem = Err(Error::from(error)),
            },
            Err(error) => problem = Err(error),
        }
    }
    match args.text("output") {
        "json" => app.out.text(&print::json::pretty(&versions).replace("    ", "  ")),
        "yaml" => app.out.text(&machinery::codec::yaml::encode(&versions)),
        "" => {
            for (key, title) in [("clientVersion", "Client Version"), ("serverVersion", "Server Version")] {
                if let Some(version) = versions[key]["gitVersion"].as_str() {
                    app.out.line(&format!("{title}: {version}"));
                }
            }
        }
        _ => return Err(Error::usage("--output must be 'yaml' or 'json'")),
    }
    problem
}

const GREEN: &str = "\u{1b}[0;32m";
const YELLOW: &str = "\u{1b}[0;33m";
const PLAIN: &str = "\u{1b}[0m";

async fn cluster_info(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.first().is_some_and(|word| word == "dump") {
        return Err(Error::usage("cluster-info dump is not part of this kubectl: use get -A -o yaml"));
    }
    let select =
        request::Select { labels: "kubernetes.io/cluster-service=true".to_owned(), ..Default::default() };
    let path = "/api/v1/namespaces/kube-system/services";
    let services = request::list(app.client()?, path, &select, "", &[]).await?;
    let colors = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let line = |name: &str, address: &str| {
        let (green, yellow, plain) = if colors { (GREEN, YELLOW, PLAIN) } else { ("", "", "") };
        app.out.line(&format!("{green}{name}{plain} is running at {yellow}{address}{plain}"));
    };
    let server = app.server();
    line("Kubernetes control plane", &server);
    for service in services["items"].as_array().into_iter().flatten() {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let title = service["metadata"]["labels"]["kubernetes.io/name"].as_str().unwrap_or(name);
        let port = service.pointer("/spec/ports/0/name").and_then(Value::as_str).unwrap_or_default();
        let port = if port.is_empty() { String::new() } else { format!(":{port}") };
        line(title, &format!("{server}{path}/{name}{port}/proxy"));
    }
    app.out.line("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.");
    Ok(())
}

//! `describe`: what people want to know of an object and of what belongs to it. Each kind is a row of a table:
//! which other objects it needs, and a pure function that writes the text.

mod cluster;
mod doc;
mod other;
mod pod;
mod policy;
#[cfg(test)]
mod tests;
mod workload;

use std::collections::BTreeMap;

use client::Discovered;
use jiff::tz::TimeZone;
use serde_json::Value;

pub use doc::{Doc, list, selector, text};
pub use other::rule_lines;

use crate::app::App;
use crate::commands::{Command, EVERYWHERE, FILES, Group, LABELS};
use crate::flags::{Args, Flag, Takes, flag};
use crate::select::{self, Info, Pick, Selector};
use crate::verbs::run;
use crate::{Error, request};

const FLAGS: &[Flag] = &[
    flag("chunk-size", Takes::Number, "500", "Objects in one answer of the server"),
    flag("show-events", Takes::Switch, "true", "Show the events of the object"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "describe",
    aliases: &[],
    group: Group::Troubleshooting,
    usage: "(-f FILENAME | TYPE [NAME_PREFIX | -l label] | TYPE/NAME)",
    about: "Show details of a specific resource or group of resources",
    examples: "kubectl describe nodes\nkubectl describe pods/nginx\nkubectl describe po -l name=myLabel",
    flags: &[FILES, LABELS, EVERYWHERE, FLAGS],
    run: run!(describe),
}];

/// Other objects that a description tells of.
enum Need {
    /// All of this resource in the object's namespace (or in the namespace the object is).
    Beside(&'static str),
    /// Pods that run on the node.
    OnNode,
    /// The node's lease.
    Lease,
}

type Write = fn(&mut Doc, &Value, &Related);

struct Row {
    resource: &'static str,
    needs: &'static [Need],
    write: Write,
}

const fn row(resource: &'static str, needs: &'static [Need], write: Write) -> Row {
    Row { resource, needs, write }
}

const PODS: &[Need] = &[Need::Beside("pods")];

const ROWS: &[Row] = &[
    row("pods", &[], pod::pod),
    row("nodes", &[Need::OnNode, Need::Lease], cluster::node),
    row("namespaces", &[Need::Beside("resourcequotas"), Need::Beside("limitranges")], cluster::namespace),
    row("persistentvolumeclaims", PODS, cluster::claim),
    row("persistentvolumes", &[], cluster::volume),
    row("resourcequotas", &[], cluster::quota),
    row("limitranges", &[], cluster::limit_range),
    row("storageclasses.storage.k8s.io", &[], cluster::storage_class),
    row("priorityclasses.scheduling.k8s.io", &[], cluster::priority_class),
    row("deployments.apps", &[Need::Beside("replicasets.apps")], workload::deployment),
    row("replicasets.apps", PODS, workload::replica_set),
    row("replicationcontrollers", PODS, workload::replica_set),
    row("statefulsets.apps", PODS, workload::stateful_set),
    row("daemonsets.apps", PODS, workload::daemon_set),
    row("jobs.batch", &[], workload::job),
    row("cronjobs.batch", &[], workload::cron_job),
    row("services", &[Need::Beside("endpointslices.discovery.k8s.io")], other::service),
    row(
        "ingresses.networking.k8s.io",
        &[Need::Beside("endpointslices.discovery.k8s.io"), Need::Beside("services")],
        other::ingress,
    ),
    row("horizontalpodautoscalers.autoscaling", &[], policy::autoscaler),
    row("poddisruptionbudgets.policy", &[], policy::budget),
    row("networkpolicies.networking.k8s.io", &[], policy::network_policy),
    row("endpointslices.discovery.k8s.io", &[], policy::endpoint_slice),
    row("secrets", &[], other::secret),
    row("configmaps", &[], other::config_map),
    row("serviceaccounts", &[], other::service_account),
    row("roles.rbac.authorization.k8s.io", &[], other::role),
    row("clusterroles.rbac.authorization.k8s.io", &[], other::role),
    row("rolebindings.rbac.authorization.k8s.io", &[], other::binding),
    row("clusterrolebindings.rbac.authorization.k8s.io", &[], other::binding),
];

/// What belongs to an object.
#[derive(Debug, Default)]
pub struct Related {
    lists: BTreeMap<String, Vec<Value>>,
    /// `None` = they are not to be shown.
    events: Option<Vec<Value>>,
}

impl Related {
    /// Objects of a resource.
    fn list(&self, resource: &str) -> &[Value] {
        self.lists.get(resource).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those of them that the object controls.
    fn owned(&self, resource: &str, owner: &Value) -> Vec<&Value> {
        let uid = &owner["metadata"]["uid"];
        let owned = |object: &&Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] == *uid)
        };
        self.list(resource).iter().filter(owned).collect()
    }

    /// Ends a description with its events.
    fn events(&self, doc: &mut Doc) {
        if let Some(events) = &self.events {
            doc.events(events);
        }
    }
}

/// A pod template alone, for the history of rollouts; tabs stay tabs there.
pub fn pod_template(template: &Value) -> String {
    let mut text = Doc::new(jiff::Timestamp::UNIX_EPOCH, TimeZone::UTC);
    pod::template(&mut text, template);
    text.unaligned()
}

/// The description of an object.
fn description(kind: &Discovered, object: &Value, related: &Related, doc: Doc) -> String {
    let mut doc = doc;
    let word = kind.resource.gvr.group_resource();
    let write = ROWS.iter().find(|row| row.resource == word).map_or(other::generic as Write, |row| row.write);
    write(&mut doc, object, related);
    doc.finish()
}

async fn related(app: &App, info: &Info, with_events: bool) -> Result<Related, Error> {
    let word = info.kind.resource.gvr.group_resource();
    let mut related = Related::default();
    let needs = ROWS.iter().find(|row| row.resource == word).map(|row| row.needs).unwrap_or_default();
    let beside = if info.namespace.is_empty() { &info.name } else { &info.namespace };
    for need in needs {
        let (word, namespace, fields) = match need {
            Need::Beside(word) => (*word, beside.as_str(), String::new()),
            Need::OnNode => ("pods", "", format!("spec.nodeName={}", info.name)),
            Need::Lease => {
                ("leases.coordination.k8s.io", "kube-node-lease", format!("metadata.name={}", info.name))
            }
        };
        let Ok(row) = app.kinds().await?.resource(word) else { continue };
        let select = request::Select { fields, page: 500, ..request::Select::default() };
        let path = row.resource.gvr.path(namespace, "");
        // What we may not see is left out; the object itself was readable.
        if let Ok(list) = request::list(app.client()?, &path, &select, "", &[]).await {
            related.lists.insert(row.resource.gvr.resource.clone(), select::items(&list));
        }
    }
    if with_events {
        related.events = Some(events(app, info).await);
    }
    Ok(related)
}

async fn events(app: &App, info: &Info) -> Vec<Value> {
    let uid = info.object["metadata"]["uid"].as_str().unwrap_or_default();
    let is_node = info.kind.resource.gvr.group_resource() == "nodes";
    // The node agent writes its node's name as the uid.
    let uid = if is_node { "" } else { uid };
    let mut fields = vec![
        format!("involvedObject.name={}", info.name),
        format!("involvedObject.kind={}", info.kind.resource.kind),
    ];
    if !info.namespace.is_empty() {
        fields.push(format!("involvedObject.namespace={}", info.namespace));
    }
    if !uid.is_empty() {
        fields.push(format!("involvedObject.uid={uid}"));
    }
    let select = request::Select { fields: fields.join(","), ..request::Select::default() };
    let path = api::Gvr::new("", "v1", "events").path(&info.namespace, "");
    match app.client() {
        Ok(client) => match request::list(client, &path, &select, "", &[]).await {
            Ok(list) => select::items(&list),
            Err(_) => Vec::new(),
        },
        Err(_) => Vec::new(),
    }
}

async fn describe(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.is_empty() && !args.given("filename") {
        return Err(Error::usage(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of \
             supported resources.",
        ));
    }
    let how = Selector { words: &args.words, type_alone: true, ..Selector::default() };
    let picked = select::pick(app, args, &how).await?;
    let (infos, mut errors) = select::fetch(app, &picked).await;
    let several = infos.len() > 1 || !errors.is_empty();
    let with_events = args.on("show-events") && (!several || args.given("show-events"));
    if infos.is_empty()
        && errors.len() == 1
        && errors[0].is_not_found()
        && let [Pick::One { kind, namespace, name }] = picked.picks.as_slice()
        && args.words.len() == 2
    {
        let error = errors.remove(0);
        return by_prefix(
            app,
            (kind, namespace, name),
            args.given("show-events") && args.on("show-events"),
            error,
        )
        .await;
    }
    for (at, info) in infos.iter().enumerate() {
        let related = related(app, info, with_events).await?;
        let doc = Doc::new(app.clock.now(), TimeZone::system());
        let text = description(&info.kind, &info.object, &related, doc);
        app.out.text(&if at == 0 { text } else { format!("\n\n{text}") });
    }
    if infos.is_empty() && errors.is_empty() {
        app.err.line(&match args.on("all-namespaces") {
            true => "No resources found".to_owned(),
            false => format!("No resources found in {} namespace.", app.namespace()?),
        });
    }
    Error::all(errors)
}

/// A name that nothing has may be the start of names.
async fn by_prefix(
    app: &App,
    (kind, namespace, prefix): (&Discovered, &str, &str),
    with_events: bool,
    otherwise: Error,
) -> Result<(), Error> {
    let pick = Pick::Many { kind: kind.clone(), namespace: namespace.to_owned() };
    let picked = select::Picked { picks: vec![pick], ..select::Picked::default() };
    let (infos, errors) = select::fetch(app, &picked).await;
    Error::all(errors)?;
    let mut found = false;
    for info in infos.iter().filter(|info| info.name.starts_with(prefix)) {
        found = true;
        let related = related(app, info, with_events).await?;
        let doc = Doc::new(app.clock.now(), TimeZone::system());
        app.out.line(&description(&info.kind, &info.object, &related, doc));
    }
    if found { Ok(()) } else { Err(otherwise) }
}

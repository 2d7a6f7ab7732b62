//! `logs`: of one container or many, past and future.

use api::ApiError;
use base::http::Body;
use bytes::Bytes;
use client::client::Query;
use futures::future::join_all;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::Error;
use crate::app::{App, Sink};
use crate::commands::{Command, Group, LABELS};
use crate::describe::{list, text};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::select::{self, Info, Selector};
use crate::verbs::{pods, run};

/// A refusal's text.
const MAX_ERROR_BYTES: usize = 64 << 10;

const FLAGS: &[Flag] = &[
    flag("all-containers", Takes::Switch, "false", "All containers of the pod"),
    flag("all-pods", Takes::Switch, "false", "All pods of the object; implies --prefix"),
    short("container", 'c', Takes::Text, "", "The container"),
    short("follow", 'f', Takes::Switch, "false", "Keep showing what is written"),
    flag("ignore-errors", Takes::Switch, "false", "Go on when one container's log fails"),
    flag("insecure-skip-tls-verify-backend", Takes::Switch, "false", "Do not verify the node"),
    flag("limit-bytes", Takes::Number, "0", "At most this many bytes"),
    flag("max-log-requests", Takes::Number, "5", "At most this many logs at once with -f"),
    flag("pod-running-timeout", Takes::Time, "20s", "How long to wait for a pod"),
    flag("prefix", Takes::Switch, "false", "Put the source before each line"),
    short("previous", 'p', Takes::Switch, "false", "The container that ran before"),
    flag("since", Takes::Time, "0s", "Only what is younger than this"),
    flag("since-time", Takes::Text, "", "Only what was written after this time"),
    flag("tail", Takes::Number, "-1", "Only so many last lines; -1 = all (10 with -l)"),
    flag("timestamps", Takes::Switch, "false", "Put the time before each line"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "logs",
    aliases: &[],
    group: Group::Troubleshooting,
    usage: "[-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]",
    about: "Print the logs for a container in a pod",
    examples: "kubectl logs nginx\nkubectl logs -f -c ruby web-1\nkubectl logs -l app=nginx --all-containers --prefix",
    flags: &[LABELS, FLAGS],
    run: run!(logs),
}];

const USAGE: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\n\
    POD or TYPE/NAME is a required argument for the logs command";

struct Source {
    path: String,
    prefix: String,
}

fn check(args: &Args) -> Result<(), Error> {
    let labels = args.text("selector");
    if labels.is_empty() && (args.words.is_empty() || args.words.len() > 2) {
        return Err(Error::misuse("logs", USAGE));
    }
    if !labels.is_empty() && !args.words.is_empty() {
        return Err(Error::misuse("logs", "only a selector (-l) or a POD name is allowed"));
    }
    if args.given("since") && args.given("since-time") {
        return Err(Error::usage("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if args.on("all-containers") && args.given("container") {
        return Err(Error::usage(format!(
            "--all-containers=true should not be specified with container name {}",
            args.text("container")
        )));
    }
    if args.given("limit-bytes") && args.number("limit-bytes") <= 0 {
        return Err(Error::usage("--limit-bytes must be greater than 0"));
    }
    if args.number("tail") < -1 {
        return Err(Error::usage("--tail must be greater than or equal to -1"));
    }
    if args.words.len() == 2 && args.given("container") {
        return Err(Error::usage("only one of -c or an inline [CONTAINER] arg is allowed"));
    }
    Ok(())
}

async fn logs(app: &App, args: &Args) -> Result<(), Error> {
    check(args)?;
    let labels = args.text("selector");
    let every = args.on("all-pods");
    let found =
        if labels.is_empty() { named(app, args, every).await? } else { pods::selected(app, labels).await? };
    if found.is_empty() {
        app.err.line(&format!("No resources found in {} namespace.", app.namespace()?));
        return Ok(());
    }
    let sources = sources(app, args, &found)?;
    let most = args.number("max-log-requests");
    let following = args.on("follow");
    if following && i64::try_from(sources.len()).is_ok_and(|count| count > most) {
        return Err(Error::usage(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {most}, use \
             --max-log-requests to increase the limit",
            sources.len()
        )));
    }
    if following && sources.len() > 1 {
        let outcomes = join_all(sources.iter().map(|source| show(app, source, args, true))).await;
        return Error::all(outcomes.into_iter().filter_map(Result::err).collect());
    }
    for source in &sources {
        show(app, source, args, false).await?;
    }
    Ok(())
}

/// The pods that words name; of several the best, with a note.
async fn named(app: &App, args: &Args, every: bool) -> Result<Vec<Info>, Error> {
    let first = &args.words[0];
    let words =
        if first.contains('/') { vec![first.clone()] } else { vec!["pods".to_owned(), first.clone()] };
    let plain = Args::default();
    let mut infos = select::objects(app, &plain, &Selector { words: &words, ..Selector::default() })
        .await
        .map_err(|error| match error.api() {
            Some(api) if error.is_not_found() => {
                let namespace = app.namespace_offline();
                Error::usage(format!(
                    "error from server (NotFound): {} in namespace {namespace:?}",
                    api.message
                ))
            }
            _ => error,
        })?;
    let info = infos.remove(0);
    let limit = args.time("pod-running-timeout");
    let mut found = pods::of(app, &info).await?;
    if found.is_empty() {
        found = vec![pods::one(app, &words, limit).await?];
    }
    if found.len() > 1 && !every {
        app.err.line(&format!("Found {} pods, using pod/{}", found.len(), found[0].name));
        found.truncate(1);
    }
    Ok(found)
}

fn sources(app: &App, args: &Args, found: &[Info]) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    let inline = args.words.get(1).map(String::as_str).unwrap_or_default();
    let asked = args.text_if("container").unwrap_or(inline);
    for pod in found {
        let object = &pod.object;
        let names: Vec<String> = if args.on("all-containers") {
            let fields = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
            fields.iter().flat_map(|field| list(object, field)).map(|c| text(c, "/name").to_owned()).collect()
        } else {
            let container = pods::container(app, object, asked, false)?;
            vec![text(&container, "/name").to_owned()]
        };
        for name in names {
            let prefixed = args.on("prefix") || args.on("all-pods");
            sources.push(Source {
                prefix: if prefixed { format!("[pod/{}/{name}] ", pod.name) } else { String::new() },
                path: path(args, pod, &name)?,
            });
        }
    }
    Ok(sources)
}

fn path(args: &Args, pod: &Info, container: &str) -> Result<String, Error> {
    let mut query = Query::default();
    query.text("container", container);
    for (flag, name) in [
        ("follow", "follow"),
        ("previous", "previous"),
        ("timestamps", "timestamps"),
        ("insecure-skip-tls-verify-backend", "insecureSkipTLSVerifyBackend"),
    ] {
        query.text(name, if args.on(flag) { "true" } else { "" });
    }
    let mut tail = args.number("tail");
    if tail < 0 && args.given("selector") && !args.given("tail") {
        tail = 10;
    }
    if tail >= 0 {
        query.text("tailLines", &tail.to_string());
    }
    let since = args.time("since");
    if !since.is_zero() {
        query.text("sinceSeconds", &since.as_secs_f64().ceil().to_string());
    }
    let time = args.text("since-time");
    if !time.is_empty() {
        let parsed = api::time::parse(time)
            .ok_or_else(|| Error::usage(format!("parsing time {time:?}: not RFC 3339")))?;
        query.text("sinceTime", &api::time::format(parsed));
    }
    if args.number("limit-bytes") > 0 {
        query.text("limitBytes", &args.number("limit-bytes").to_string());
    }
    let place = api::Gvr::new("", "v1", "pods").path(&pod.namespace, &pod.name);
    Ok(format!("{place}/log{}", query.as_str()))
}

async fn show(app: &App, source: &Source, args: &Args, several: bool) -> Result<(), Error> {
    match stream(app, &source.path, &source.prefix, several, &app.out).await {
        Err(error) if args.on("ignore-errors") => {
            let (text, _) = error.report(&app.server());
            app.out.line(&text);
            Ok(())
        }
        other => other,
    }
}

/// Copies a log. With a prefix, or with others beside it, only whole lines are written.
async fn stream(app: &App, path: &str, prefix: &str, several: bool, out: &Sink) -> Result<(), Error> {
    let mut body = open(app, path).await?;
    let mut waiting: Vec<u8> = Vec::new();
    while let Some(bytes) = next(&mut body).await? {
        if prefix.is_empty() && !several {
            out.bytes(&bytes);
            continue;
        }
        waiting.extend_from_slice(&bytes);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            out.bytes(&[prefix.as_bytes(), &line].concat());
        }
    }
    if !waiting.is_empty() {
        out.bytes(&[prefix.as_bytes(), &waiting].concat());
    }
    Ok(())
}

async fn open(app: &App, path: &str) -> Result<Body, Error> {
    let request = Request::get(path).body(base::http::empty());
    let request = request.map_err(|error| Error::usage(error.to_string()))?;
    let response = app.client()?.raw(request).await?;
    let status = response.status();
    let body = response.into_body();
    if status.is_success() {
        return Ok(body);
    }
    let bytes = base::http::read(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Err(client::ClientError::from(ApiError::from_status(status.as_u16(), &value)).into())
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Error> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::local("reading the log", std::io::Error::other(error)))?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The log of a container so far, or with `follow` until it ends, without its first `skip` bytes; returns how
/// many bytes of it have been seen.
pub async fn whole(
    app: &App,
    pod: &Info,
    container: &str,
    follow: bool,
    skip: usize,
) -> Result<usize, Error> {
    let place = api::Gvr::new("", "v1", "pods").path(&pod.namespace, &pod.name);
    let follow = if follow { "&follow=true" } else { "" };
    let mut body = open(app, &format!("{place}/log?container={container}{follow}")).await?;
    let mut seen = 0;
    while let Some(bytes) = next(&mut body).await? {
        let known = skip.saturating_sub(seen).min(bytes.len());
        seen += bytes.len();
        app.out.bytes(&bytes[known..]);
    }
    Ok(seen)
}

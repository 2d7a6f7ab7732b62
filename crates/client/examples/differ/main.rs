//! Sends one corpus of requests to two API servers and lists where the answers differ.
//!
//! ```text
//! cargo xtask differ A=KUBECONFIG [B=KUBECONFIG] [--only PART-OF-ID]... [--list] [--all]
//! ```
//!
//! A is the server to judge by, B the one under test; both empty, both without controllers. With one server only, the
//! corpus is a smoke test: no answer may be a server error. `--only` runs the sections in whose cases the text occurs,
//! and shows those cases; `--all` shows explained differences as well. What is known and meant stands in
//! `explained.txt`. Must not know which servers it talks to.

mod compare;
mod corpus;
mod fields;
mod kinds;
mod lines;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use base::{Clock, Tasks};
use client::{Https, Kubeconfig, Transport};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use machinery::codec::proto;
use serde_json::Value;

use crate::compare::{Answer, Explained};
use crate::corpus::{Body, Case};

/// What every request calls itself, so that field managers have one name.
const USER_AGENT: &str = "differ/1";
/// An answer that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A server, and what its last answers said.
struct Target {
    client: Https,
    clock: Clock,
    /// The last whole object that the server returned.
    last: Value,
    /// The last token of a list that goes on.
    next: String,
}

impl Target {
    fn open(path: &str, clock: &Clock, tasks: &Tasks) -> Result<Target, String> {
        let config = Kubeconfig::load(Path::new(path)).map_err(|error| error.to_string())?;
        let client = Https::from_kubeconfig(&config, None, clock.clone(), tasks.clone());
        let client = client.map_err(|error| error.to_string())?;
        Ok(Target { client, clock: clock.clone(), last: Value::Null, next: String::new() })
    }

    /// Puts what earlier answers said into a text.
    fn fill(&self, text: &str) -> String {
        let meta = |name: &str| self.last["metadata"][name].as_str().unwrap_or_default();
        text.replace("${rv}", meta("resourceVersion"))
            .replace("${uid}", meta("uid"))
            .replace("${continue}", &self.next)
    }

    fn body(&self, body: &Body) -> Vec<u8> {
        match body {
            Body::None => Vec::new(),
            Body::Text(text) => self.fill(text).into_bytes(),
            Body::Protobuf(facts, object) => proto::encode_object(facts, object),
            Body::Last(edit) => {
                let mut object = self.last.clone();
                merge(&mut object, edit);
                object.to_string().into_bytes()
            }
        }
    }

    async fn send(&mut self, case: &Case) -> Result<Answer, String> {
        let mut request = Request::new(base::http::full(self.body(&case.body)));
        *request.method_mut() = case.method.parse().map_err(|_| format!("{} is no method", case.method))?;
        *request.uri_mut() = self.fill(&case.path).parse().map_err(|error| format!("{error}"))?;
        let headers = request.headers_mut();
        headers.insert("user-agent", HeaderValue::from_static(USER_AGENT));
        headers.insert("accept", HeaderValue::from_static("application/json"));
        if !matches!(case.body, Body::None) {
            headers.insert("content-type", HeaderValue::from_static("application/json"));
        }
        for (name, value) in &case.headers {
            let name: HeaderName = name.parse().map_err(|error| format!("{error}"))?;
            headers.append(&name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
            if headers.get_all(&name).iter().count() > 1 && name != "impersonate-group" {
                headers.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
            }
        }
        let answer = async {
            let response = self.client.call(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>(Answer { code: head.status.as_u16(), headers: head.headers, bytes })
        };
        let answer = self.clock.timeout(ANSWER_LIMIT, answer).await.ok_or("no answer in time")??;
        self.remember(case, &answer);
        Ok(answer)
    }

    fn remember(&mut self, case: &Case, answer: &Answer) {
        if answer.code >= 300 || case.method == "DELETE" || case.path.contains("dryRun") {
            return;
        }
        let Ok(tree) = serde_json::from_slice::<Value>(&answer.bytes) else { return };
        if let Some(next) = tree["metadata"]["continue"].as_str() {
            self.next = next.to_owned();
        }
        let whole = tree["metadata"]["uid"].is_string() && tree["kind"] != "PartialObjectMetadata";
        if whole && tree["kind"] != "Scale" {
            self.last = tree;
        }
    }
}

/// An RFC 7386 merge; what the corpus writes is small.
fn merge(target: &mut Value, edit: &Value) {
    let Value::Object(edits) = edit else {
        *target = edit.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in edits {
        match value {
            Value::Null => drop(map.remove(key)),
            _ => merge(map.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

struct Options {
    targets: Vec<String>,
    only: Vec<String>,
    list: bool,
    all: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options { targets: Vec::new(), only: Vec::new(), list: false, all: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only.push(args.next().ok_or("--only needs a text")?),
            "--list" => options.list = true,
            "--all" => options.all = true,
            _ => options.targets.push(arg.split_once('=').map_or(arg.clone(), |(_, path)| path.to_owned())),
        }
    }
    let enough = options.list || (1..=2).contains(&options.targets.len());
    if enough {
        Ok(options)
    } else {
        Err("usage: differ A=KUBECONFIG [B=KUBECONFIG] [--only TEXT] [--list] [--all]".into())
    }
}

/// What a run has counted.
#[derive(Default)]
struct Counts {
    same: usize,
    explained: usize,
    unexplained: usize,
    failures: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode, String> {
    let options = options()?;
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let run = format!("r{:07}", clock.now().as_second() % 10_000_000);
    let wanted =
        |id: &str| options.only.is_empty() || options.only.iter().any(|only| id.contains(only.as_str()));
    let mut sections = corpus::sections(&run);
    sections.retain(|section| section.always || section.cases.iter().any(|case| wanted(&case.id)));
    if options.list {
        sections.iter().flat_map(|section| &section.cases).for_each(|case| println!("{}", case.id));
        return Ok(ExitCode::SUCCESS);
    }
    let open = |path: &String| Target::open(path, &clock, &tasks);
    let mut targets = options.targets.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let explained = Explained::read();
    let mut counts = Counts::default();
    for case in sections.iter().flat_map(|section| &section.cases) {
        if case.method == "WAIT" {
            clock.sleep(Duration::from_millis(case.path.parse().unwrap_or(0))).await;
            continue;
        }
        let shown = wanted(&case.id);
        match &mut targets[..] {
            [one] => smoke(case, one.send(case).await, &mut counts),
            [a, b] => {
                let (a, b) = futures::join!(a.send(case), b.send(case));
                judge(case, &run, (a, b), &explained, &mut counts, (shown, options.all));
            }
            _ => return Err("one server or two".to_owned()),
        }
    }
    tasks.drain(Duration::from_secs(1)).await;
    let Counts { same, explained: meant, unexplained, failures } = counts;
    if targets.len() == 1 {
        println!("{same} answered, {failures} server errors");
    } else {
        println!("{same} same, {meant} explained, {unexplained} unexplained");
        explained.unused().for_each(|rule| println!("never needed: {rule}"));
    }
    Ok(if unexplained + failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn smoke(case: &Case, answer: Result<Answer, String>, counts: &mut Counts) {
    match answer {
        Ok(answer) if answer.code < 500 || case.may_fail => counts.same += 1,
        Ok(answer) => {
            counts.failures += 1;
            println!("{}: {} {}", case.id, answer.code, String::from_utf8_lossy(&answer.bytes));
        }
        Err(error) => {
            counts.failures += 1;
            println!("{}: {error}", case.id);
        }
    }
}

type Answers = (Result<Answer, String>, Result<Answer, String>);

fn judge(
    case: &Case,
    run: &str,
    answers: Answers,
    explained: &Explained,
    counts: &mut Counts,
    (shown, all): (bool, bool),
) {
    let differences = match answers {
        (Ok(a), Ok(b)) => compare::differences(case, run, &a, &b),
        (Err(a), Err(_)) if a == "no answer in time" => Vec::new(),
        (a, b) => vec![format!("answer: {} | {}", said(a), said(b))],
    };
    if differences.is_empty() {
        counts.same += 1;
        return;
    }
    let unexplained: Vec<&String> =
        differences.iter().filter(|line| !explained.covers(&case.id, line)).collect();
    let (mark, lines) = match (unexplained.is_empty(), all) {
        (true, true) => ("explained", differences.iter().collect()),
        (true, false) => ("explained", Vec::new()),
        (false, _) => ("differs", unexplained),
    };
    if mark == "differs" {
        counts.unexplained += 1
    } else {
        counts.explained += 1
    }
    if shown && !lines.is_empty() {
        println!("{mark}: {}", case.id);
        lines.iter().take(compare::SHOWN).for_each(|line| println!("    {line}"));
        if lines.len() > compare::SHOWN {
            println!("    … {} more", lines.len() - compare::SHOWN);
        }
    }
}

fn said(answer: Result<Answer, String>) -> String {
    answer.map_or_else(|error| error, |answer| answer.code.to_string())
}

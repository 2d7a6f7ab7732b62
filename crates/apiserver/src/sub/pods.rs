//! exec, attach, portforward and log: requests for the agent of a pod's node.

use api::ApiError;
use api::error::Reason;
use base::http::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use registry::Role;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Key;

use super::agent::{self, Target};
use crate::admission::{Operation, Review};
use crate::object;
use crate::request::Query;
use crate::verbs::Call;
use crate::write::{FieldValidation, WriteOptions};

/// Bytes of an agent's complaint that are passed on.
const COMPLAINT: usize = 2000;

fn pod(call: &Call<'_>) -> Result<Value, ApiError> {
    Ok(object::tree(&*call.server.find(call.row(), call.namespace(), call.name())?))
}

fn node_target(call: &Call<'_>, pod: &Value) -> Result<Target, ApiError> {
    let name = pod.text("spec.nodeName");
    let node = call
        .server
        .store
        .get(&Key::new("nodes", "", name))
        // Upstream takes the node's absence for the pod's.
        .ok_or_else(|| ApiError::not_found("", "pods", name))?;
    call.server.agents.target(&object::tree(&node))
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    pod.list(&format!("spec.{list}")).iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
}

/// The container asked for, or the only one.
fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let name = pod.text("metadata.name");
    let [own, init, ephemeral] =
        ["containers", "initContainers", "ephemeralContainers"].map(|list| names(pod, list));
    if !asked.is_empty() {
        let known = [&own, &init, &ephemeral].iter().any(|list| list.iter().any(|n| n == asked));
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    match own.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                own.join(" ")
            );
            for (list, what) in [(&init, "init"), (&ephemeral, "ephemeral")] {
                if !list.is_empty() {
                    message.push_str(&format!(" or one of the {what} containers: [{}]", list.join(" ")));
                }
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// Tunnels exec, attach and portforward.
pub async fn connect(call: &Call<'_>, role: &Role, body: Body) -> Result<Response<Body>, ApiError> {
    let pod = pod(call)?;
    let query = &call.exchange.query;
    let name = call.name();
    if pod.text("spec.nodeName").is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    check_streams(query, role)?;
    let phase = pod.text("status.phase");
    if *role != Role::PortForward && matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    review(call, query).await?;
    let (namespace, path) = (
        call.namespace(),
        match role {
            Role::Exec => {
                format!("/exec/{}/{name}/{}", call.namespace(), container(&pod, query.text("container"))?)
            }
            Role::Attach => {
                format!("/attach/{}/{name}/{}", call.namespace(), container(&pod, query.text("container"))?)
            }
            _ => String::new(),
        },
    );
    let path = if path.is_empty() { format!("/portForward/{namespace}/{name}") } else { path };
    let path = format!("{path}{}", agent_query(query, role));
    let target = node_target(call, &pod)?;
    let response =
        agent::pass(call.server, &target, &path, &call.exchange.head, &HeaderMap::new(), body).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS || response.status().is_success() {
        return Ok(response);
    }
    Err(complaint(call, response).await)
}

fn check_streams(query: &Query, role: &Role) -> Result<(), ApiError> {
    if *role == Role::PortForward {
        return Ok(());
    }
    // Attach defaults to output and errors, exec to what is asked.
    let any = ["stdin", "stdout", "stderr"].iter().any(|name| query.flag(name));
    if !any && *role == Role::Exec && query.get("stdout").is_some() {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    if *role == Role::Exec && query.all("command").next().is_none() {
        return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
    }
    if query.flag("tty") && query.flag("stderr") {
        return Err(ApiError::bad_request("tty and stderr cannot both be true"));
    }
    Ok(())
}

/// Upstream's options as the agent names them.
fn agent_query(query: &Query, role: &Role) -> String {
    let mut out: Vec<(String, String)> = Vec::new();
    match role {
        Role::PortForward => out.extend(query.all("ports").map(|port| ("port".to_owned(), port.to_owned()))),
        _ => {
            let given = ["stdin", "stdout", "stderr"].iter().any(|name| query.get(name).is_some());
            for (theirs, ours, default) in [
                ("input", "stdin", false),
                ("output", "stdout", true),
                ("error", "stderr", true),
                ("tty", "tty", false),
            ] {
                if query.flag(ours) || (!given && default) {
                    out.push((theirs.to_owned(), "1".to_owned()));
                }
            }
            out.extend(query.all("command").map(|word| ("command".to_owned(), word.to_owned())));
        }
    }
    encode(&out)
}

/// A query string, `?` included when there is one.
pub fn encode(pairs: &[(String, String)]) -> String {
    let text: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    if text.is_empty() { String::new() } else { format!("?{}", text.join("&")) }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Admission of a connection.
async fn review(call: &Call<'_>, query: &Query) -> Result<(), ApiError> {
    let options = WriteOptions {
        dry_run: false,
        validation: FieldValidation::Ignore,
        manager: String::new(),
        force: false,
    };
    let review = Review::new(call, Operation::Connect, &options);
    let kind = call
        .row()
        .subresource(&call.exchange.info.subresource)
        .map(|sub| sub.kind.clone())
        .unwrap_or_default();
    let mut given = json!({"apiVersion": "v1", "kind": kind});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(name) {
            given[name] = true.into();
        }
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        given["command"] = json!(command);
    }
    if let Some(container) = query.get("container") {
        given["container"] = container.into();
    }
    call.server.admission.announce(&review, &given, None).await?;
    call.server.admission.validate(&review, Some(&given), None).await
}

/// Streams a container's log.
pub async fn log(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let pod = pod(call)?;
    let query = &call.exchange.query;
    check_log_options(call)?;
    let container = container(&pod, query.text("container"))?;
    if pod.text("spec.nodeName").is_empty() {
        // Nothing was logged yet, and nobody can be asked.
        let mut nothing = Response::new(base::http::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let keep = [
        "follow",
        "previous",
        "timestamps",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let flags = ["follow", "previous", "timestamps"];
    let pairs: Vec<(String, String)> = keep
        .iter()
        .filter_map(|key| {
            let value = query.get(key).filter(|value| !value.is_empty() || flags.contains(key))?;
            let value = if flags.contains(key) { query.flag(key).to_string() } else { value.to_owned() };
            Some(((*key).to_owned(), value)).filter(|pair| pair.1 != "false")
        })
        .collect();
    let path = format!("/containerLogs/{}/{}/{container}{}", call.namespace(), call.name(), encode(&pairs));
    let target = node_target(call, &pod)?;
    let mut request = Request::new(base::http::empty());
    *request.uri_mut() = path.parse().map_err(|_| ApiError::bad_request("the path cannot be passed on"))?;
    let host = HeaderValue::from_str(&target.host).unwrap_or(HeaderValue::from_static("agent"));
    request.headers_mut().insert(http::header::HOST, host);
    if let Some(upgrade) = call.exchange.headers().get(http::header::UPGRADE).cloned() {
        let _ = upgrade;
        return super::pods_ws::log(call, &target, request).await;
    }
    let response = agent::send(call.server, &target, request).await?;
    if !response.status().is_success() {
        return Err(complaint(call, response.map(base::http::wrap)).await);
    }
    let mut answer = Response::new(base::http::wrap(response.into_body()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(answer)
}

fn check_log_options(call: &Call<'_>) -> Result<(), ApiError> {
    use api::validation::{ErrorList, FieldError, Path};
    let query = &call.exchange.query;
    let mut errors = ErrorList::new();
    let numbers = [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ];
    for (name, least, detail) in numbers {
        if let Some(number) = query.integer(name)?.filter(|n| *n < least) {
            errors.push(FieldError::invalid(&Path::new(name), number, detail));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            &Path::root(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "PodLogOptions", call.name(), &errors)) }
}

/// An agent's refusal as a Status.
async fn complaint(call: &Call<'_>, response: Response<Body>) -> ApiError {
    let code = response.status().as_u16();
    let bytes = base::http::read(response.into_body(), 64 * 1024).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(COMPLAINT)]).trim().to_owned();
    let resource = format!("pods/{}", call.exchange.info.subresource);
    match code {
        500 => ApiError::internal(&text),
        400 => ApiError::bad_request(text),
        404 => ApiError::new(
            Reason::NotFound,
            format!("the server could not find the requested resource ({resource} {}): {text}", call.name()),
        ),
        code => {
            let mut error = ApiError::new(Reason::Unknown, text);
            error.code = code;
            error
        }
    }
}

//! Binding: a pod gets its node.

use api::ApiError;
use base::http::Body;
use http::Response;

use super::{created, raw_change};
use crate::admission::{Operation, Review};
use crate::verbs::Call;
use crate::write::{self, Target, WriteOptions};

/// POST of a Binding to `bindings` or `pods/NAME/binding`.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call.exchange, "CreateOptions")?;
    call.exchange.accept(call.offer())?;
    let body = write::read_body(body).await?;
    let target = Target { group: "", version: "v1", kind: "Binding", custom: false };
    let mut binding = write::decode(call.exchange, target, &body, options.validation)?;
    let own = binding["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let name = if call.name().is_empty() { own.as_str() } else { call.name() };
    if own != name && (!own.is_empty() || !call.name().is_empty()) {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let namespace = binding["metadata"]["namespace"].as_str().unwrap_or("");
    if !namespace.is_empty() && namespace != call.namespace() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    check(&binding)?;
    let mut review = Review::new(call, Operation::Create, &options);
    call.server.admission.mutate(&mut review, &mut binding, None).await?;
    call.server.admission.validate(&review, Some(&binding), None).await?;
    if name.is_empty() {
        return Err(ApiError::bad_request("Name parameter required."));
    }
    let wrong = api::names::path_segment(name);
    if !wrong.is_empty() {
        let quoted = api::validation::go_quote(name);
        return Err(ApiError::bad_request(format!("Name parameter invalid: {quoted}: {}", wrong.join(";"))));
    }
    let catalog = call.server.rows.now();
    let row = catalog.get("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let now = call.exchange.now;
    raw_change(call, row, call.namespace(), name, options.dry_run, &mut |pod| {
        for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let [wanted, own] =
                [&binding, &*pod].map(|object| object["metadata"][field].as_str().unwrap_or(""));
            if !wanted.is_empty() && wanted != own {
                return Err(crate::verbs::update::failed_precondition(call, row, name, (what, wanted, own)));
            }
        }
        registry::pod::bind(pod, &binding, now)
    })
    .await?;
    created(call)
}

fn check(binding: &serde_json::Value) -> Result<(), ApiError> {
    use api::validation::{ErrorList, FieldError, Path};
    let target = &binding["target"];
    let mut errors = ErrorList::new();
    let kind = target["kind"].as_str().unwrap_or("");
    let path = Path::new("target");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or("").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let name = binding["metadata"]["name"].as_str().unwrap_or("");
    Err(ApiError::invalid("", "Binding", name, &errors))
}

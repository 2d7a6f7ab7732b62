//! TokenRequest: a new token for a service account, bound to an object if asked.

use api::ApiError;
use api::validation::{ErrorList, FieldError, Path};
use base::http::Body;
use http::{Response, StatusCode};
use jiff::SignedDuration;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Key;

use crate::admission::{Operation, Review};
use crate::authn::service_account::{Bound, Lifetime};
use crate::object;
use crate::respond;
use crate::verbs::Call;
use crate::write::{self, Target, WriteOptions};

/// The shortest and longest life of a token, in seconds.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
/// Asked for by pods' default token volumes; such tokens live a year but warn after this.
const EXTENDED: i64 = 3607;
const YEAR: i64 = 365 * 86_400;

/// POST of a TokenRequest to `serviceaccounts/NAME/token`.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let offer = crate::negotiate::Offer { tables: false, protobuf: true, watch: false };
    let accept = call.exchange.accept(offer)?;
    let options = WriteOptions::parse(call.exchange, "CreateOptions")?;
    let body = write::read_body(body).await?;
    let target =
        Target { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", custom: false };
    let mut request = write::decode(call.exchange, target, &body, options.validation)?;
    let own = request.text("metadata.name");
    if !own.is_empty() && own != call.name() {
        return Err(ApiError::bad_request(format!(
            "name on the request (\"{}\") does not match the name in the token request (\"{own}\")",
            call.name()
        )));
    }
    let seconds = request.at("spec.expirationSeconds").as_i64().unwrap_or(3600);
    request.set("spec.expirationSeconds", seconds);
    let review = Review::new(call, Operation::Create, &options);
    call.server.admission.announce(&review, &request, None).await?;
    call.server.admission.validate(&review, Some(&request), None).await?;
    check(&request, seconds)?;
    let mut audiences: Vec<String> =
        request.list("spec.audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences = call.server.config.audiences();
        request.set("spec.audiences", json!(audiences));
    }
    let account = object::tree(&*call.server.find(call.row(), call.namespace(), call.name())?);
    let bound = bound(call, &request)?;
    let extends = seconds == EXTENDED && bound.objects.iter().any(|o| o.0 == "pod");
    let lifetime = if extends {
        Lifetime { seconds: YEAR, warn_after: Some(EXTENDED) }
    } else {
        Lifetime { seconds, warn_after: None }
    };
    let (now, id) = (call.exchange.now, call.server.rng.uuid());
    let accounts = &call.server.authenticator.accounts;
    let token =
        accounts.issue(&account, &bound, &audiences, lifetime, now, id).ok_or_else(ApiError::no_such_path)?;
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    request.set("metadata.name", call.name());
    request.set("metadata.namespace", call.namespace());
    request.set("metadata.creationTimestamp", api::time::format(now));
    request.set("status", json!({"token": token, "expirationTimestamp": api::time::format(expires)}));
    Ok(respond::tree(&accept, StatusCode::CREATED, &request))
}

fn check(request: &Value, seconds: i64) -> Result<(), ApiError> {
    let path = Path::new("spec").child("expirationSeconds");
    let mut errors = ErrorList::new();
    if seconds < SHORTEST {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > LONGEST {
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", request.text("metadata.name"), &errors))
}

/// The object that the token is bound to, and the node of a pod.
fn bound(call: &Call<'_>, request: &Value) -> Result<Bound, ApiError> {
    let reference = request.at("spec.boundObjectRef");
    if reference.is_null() {
        return Ok(Bound::default());
    }
    let (api_version, kind, name) =
        (reference.text("apiVersion"), reference.text("kind"), reference.text("name"));
    let uid = reference.text("uid");
    let (claim, resource) = match (api_version, kind) {
        ("v1", "Pod") => ("pod", "pods"),
        ("v1", "Secret") => ("secret", "secrets"),
        ("v1", "Node") => ("node", "nodes"),
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {}, Kind={kind}",
                if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") }
            )));
        }
    };
    let namespace = if claim == "node" { "" } else { call.namespace() };
    let found = call.server.store.get(&Key::new(resource, namespace, name));
    let found = found.ok_or_else(|| ApiError::not_found("", resource, name))?;
    if !uid.is_empty() && uid != &*found.attrs.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", resource, name, &why));
    }
    let mut bound = Bound::default();
    bound.objects.push((claim, name.to_owned(), found.attrs.uid.to_string()));
    if claim == "pod" {
        let pod = object::tree(&found);
        if pod.text("spec.serviceAccountName") != call.name() {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.name()
            )));
        }
        let node = pod.text("spec.nodeName");
        if !node.is_empty() {
            let uid = call.server.store.get(&Key::new("nodes", "", node)).map(|n| n.attrs.uid.to_string());
            bound.objects.push(("node", node.to_owned(), uid.unwrap_or_default()));
        }
    }
    Ok(bound)
}

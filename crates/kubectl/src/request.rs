//! Calls to the server as commands make them: untyped objects, dry runs, field managers.
//!
//! Must not know how answers are shown.

use bytes::Bytes;
use client::client::{Call, Patch, Query};
use client::{Client, ClientError, ResourceRef};
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::flags::Args;

/// Whether a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DryRun {
    /// It is made.
    #[default]
    No,
    /// Nothing is sent.
    Client,
    /// The server only tries.
    Server,
}

impl DryRun {
    /// From `--dry-run`.
    pub fn of(args: &Args) -> Result<DryRun, Error> {
        match args.text("dry-run") {
            "" | "none" => Ok(DryRun::No),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            // What a bare `--dry-run` means.
            "unchanged" => Err(Error::usage(
                r#"Invalid dry-run value (unchanged). Must be "none", "server", or "client"."#,
            )),
            other => Err(Error::usage(format!(
                r#"Invalid dry-run value ({other}). Must be "none", "server", or "client"."#
            ))),
        }
    }

    /// What is put behind messages.
    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::No => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }
}

/// How a change is sent.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// `fieldManager`.
    pub manager: String,
    /// Only try.
    pub dry_run: DryRun,
    /// `fieldValidation`.
    pub validation: String,
}

impl Write {
    /// From flags; the manager is `--field-manager`, or else this one.
    pub fn of(args: &Args, manager: &str) -> Result<Write, Error> {
        Ok(Write {
            manager: args.text_if("field-manager").unwrap_or(manager).to_owned(),
            dry_run: DryRun::of(args)?,
            validation: validation(args)?,
        })
    }

    fn query(&self, query: &mut Query) {
        query.text("fieldManager", &self.manager);
        query.text("fieldValidation", &self.validation);
        query.text("dryRun", if self.dry_run == DryRun::Server { "All" } else { "" });
    }
}

fn validation(args: &Args) -> Result<String, Error> {
    match args.text("validate") {
        "" => Ok(String::new()),
        "strict" | "true" | "t" | "1" => Ok("Strict".to_owned()),
        "warn" => Ok("Warn".to_owned()),
        "ignore" | "false" | "f" | "0" => Ok("Ignore".to_owned()),
        other => Err(Error::usage(format!(
            r#"invalid validation directive "{other}"; must be one of: "strict", "warn", "ignore""#
        ))),
    }
}

fn path(resource: &ResourceRef, namespace: &str, name: &str, subresource: &str) -> String {
    let namespace = if resource.namespaced { namespace } else { "" };
    let mut path = resource.gvr.path(namespace, name);
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

/// One object, or one of its subresources.
pub async fn get(
    client: &Client,
    resource: &ResourceRef,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Value, ClientError> {
    client.json(&Call::new(Method::GET, path(resource, namespace, name, subresource))).await
}

/// Creates an object.
pub async fn create(
    client: &Client,
    resource: &ResourceRef,
    namespace: &str,
    object: &Value,
    write: &Write,
) -> Result<Value, ClientError> {
    let mut call = Call::new(Method::POST, path(resource, namespace, "", "")).json(object)?;
    write.query(&mut call.query);
    client.json(&call).await
}

/// Replaces an object or one of its subresources.
pub async fn replace(
    client: &Client,
    resource: &ResourceRef,
    (namespace, name, subresource): (&str, &str, &str),
    object: &Value,
    write: &Write,
) -> Result<Value, ClientError> {
    let mut call = Call::new(Method::PUT, path(resource, namespace, name, subresource)).json(object)?;
    write.query(&mut call.query);
    client.json(&call).await
}

/// Patches an object or one of its subresources.
pub async fn patch(
    client: &Client,
    resource: &ResourceRef,
    (namespace, name, subresource): (&str, &str, &str),
    patch: &Patch,
    write: &Write,
) -> Result<Value, ClientError> {
    let mut call =
        Call::new(Method::PATCH, path(resource, namespace, name, subresource)).json(patch.body())?;
    call.content_type = match patch {
        Patch::Json(_) => "application/json-patch+json",
        Patch::Merge(_) => "application/merge-patch+json",
        Patch::Strategic(_) => "application/strategic-merge-patch+json",
        Patch::Apply { .. } => "application/apply-patch+yaml",
    };
    if let Patch::Apply { force: true, .. } = patch {
        call.query.text("force", "true");
    }
    write.query(&mut call.query);
    client.json(&call).await
}

/// How something is deleted.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// `propagationPolicy`.
    pub propagation: String,
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
    /// Only the object with this uid.
    pub uid: String,
    /// The server only tries.
    pub dry_run: bool,
}

impl Delete {
    /// `DeleteOptions`.
    pub fn to_json(&self) -> Value {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if !self.propagation.is_empty() {
            options["propagationPolicy"] = json!(self.propagation);
        }
        if let Some(seconds) = self.grace_seconds {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        if !self.uid.is_empty() {
            options["preconditions"]["uid"] = json!(self.uid);
        }
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    }
}

/// Deletes an object.
pub async fn delete(
    client: &Client,
    resource: &ResourceRef,
    namespace: &str,
    name: &str,
    how: &Delete,
) -> Result<Value, ClientError> {
    client.json(&Call::new(Method::DELETE, path(resource, namespace, name, "")).json(&how.to_json())?).await
}

/// Posts to a subresource or any path.
pub async fn post(client: &Client, path: &str, object: &Value) -> Result<Value, ClientError> {
    client.json(&Call::new(Method::POST, path.to_owned()).json(object)?).await
}

/// What a list selects.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
    /// Objects in one answer; 0 = all.
    pub page: i64,
}

/// A list as the server answers it, all pages joined. `accept` empty = objects.
pub async fn list(
    client: &Client,
    path: &str,
    select: &Select,
    accept: &'static str,
    extra: &[(&str, &str)],
) -> Result<Value, ClientError> {
    let mut whole: Option<Value> = None;
    let mut token = String::new();
    loop {
        let mut call = Call::new(Method::GET, path.to_owned());
        call.accept = accept;
        call.query.text("labelSelector", &select.labels);
        call.query.text("fieldSelector", &select.fields);
        for (name, value) in extra {
            call.query.text(name, value);
        }
        if select.page > 0 {
            call.query.text("limit", &select.page.to_string());
        }
        call.query.text("continue", &token);
        let mut page: Value = client.json(&call).await?;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        let Some(first) = &mut whole else {
            if token.is_empty() {
                return Ok(page);
            }
            whole = Some(page);
            continue;
        };
        let rows = if page.get("rows").is_some() { "rows" } else { "items" };
        let more = page[rows].take();
        if let (Some(all), Value::Array(more)) = (first[rows].as_array_mut(), more) {
            all.extend(more);
        }
        if token.is_empty() {
            break;
        }
    }
    let mut whole = whole.unwrap_or(Value::Null);
    if let Some(meta) = whole.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("continue");
        meta.remove("remainingItemCount");
    }
    Ok(whole)
}

/// Any path, as bytes.
pub async fn bytes(client: &Client, path: &str) -> Result<Bytes, ClientError> {
    client.bytes(&Call::new(Method::GET, path.to_owned())).await
}

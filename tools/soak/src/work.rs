//! The writers: each writes keys of its own and keys that all share, and says what it does and what it is told.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::call::{Answer, Caller, NAMESPACE, annotation, item, path, text};
use crate::history::{Intent, Outcome};
use crate::world::World;

/// Keys that all write.
const SHARED: u64 = 12;
/// Keys of one writer.
const OWN: u64 = 3;
/// Fields of an object that patches set.
const FIELDS: u64 = 4;
/// One writer in this many writes Services.
const SERVICES: u64 = 5;

struct Writer {
    world: Arc<World>,
    callers: Vec<Caller>,
    number: u64,
    /// The last state that it saw of each key, to write without reading first.
    known: std::collections::HashMap<String, Value>,
}

/// Writes until the run stops.
pub async fn write(world: Arc<World>, callers: Vec<Caller>, number: u64) {
    let mut writer = Writer { world, callers, number, known: Default::default() };
    while !writer.world.hushed() {
        if !writer.once().await {
            writer.world.pause().await;
        }
    }
}

/// Writes an object so that whoever watches it hears of it; the revision of that.
pub async fn fence(world: &Arc<World>, callers: Vec<Caller>, resource: &str) -> Option<u64> {
    let mut writer = Writer { world: world.clone(), callers, number: 0, known: Default::default() };
    // A writer may delete it at any time: then it is made again.
    for create in [false, true].into_iter().cycle().take(200) {
        let intent = if create { Intent::Create } else { Intent::Patch(None) };
        if let Some(Outcome::Done(Some(item))) = writer.send(resource, "shared-0", intent, &Value::Null).await
        {
            return Some(item.revision);
        }
    }
    None
}

impl Writer {
    fn caller(&self) -> &Caller {
        &self.callers[self.world.rng.below(self.callers.len() as u64) as usize]
    }

    /// One operation; false if the server is not there.
    async fn once(&mut self) -> bool {
        let rng = &self.world.rng;
        let resource = if self.number.is_multiple_of(SERVICES) { "services" } else { "configmaps" };
        let name = match rng.below(2) {
            0 => format!("own-{}-{}", self.number, rng.below(OWN)),
            _ => format!("shared-{}", rng.below(SHARED)),
        };
        let remembered = rng.below(2) == 0;
        let found = match self.known.get(&name).filter(|_| remembered) {
            Some(known) => Some(known.clone()),
            None => match self.read(resource, &name).await {
                Some(found) => found,
                None => return false,
            },
        };
        let intent = self.choose(resource, found.as_ref());
        let outcome = self.send(resource, &name, intent, &found.unwrap_or_default()).await;
        matches!(outcome, Some(Outcome::Done(_) | Outcome::Refused(_)))
    }

    fn choose(&self, resource: &str, found: Option<&Value>) -> Intent {
        let rng = &self.world.rng;
        let known = found.and_then(|object| item(resource, object).ok());
        let Some(known) = known else { return Intent::Create };
        let some = |revision| (rng.below(2) == 0).then_some(revision);
        match rng.below(20) {
            0..7 => Intent::Replace(known.revision),
            7..16 => Intent::Patch(some(known.revision)),
            16 => Intent::Create,
            _ => Intent::Delete(known.uid, some(known.revision)),
        }
    }

    /// Reads the newest version; `None` if there was no answer.
    async fn read(&mut self, resource: &str, name: &str) -> Option<Option<Value>> {
        let floor = self.world.ask(|history| history.floor());
        let answer = self.caller().call(Method::GET, &path(resource, name), None).await;
        let found = match answer {
            Answer::Told(200, object) => Some(object),
            Answer::Told(404, _) => None,
            Answer::Told(code, body) => {
                self.world.note_odd(format!("GET {code}: {}", body["message"]));
                return None;
            }
            Answer::Lost(_) => return None,
        };
        let key = format!("{resource}/{name}");
        self.world.note(|history| {
            let revision = found.as_ref().map(|object| item(resource, object)).transpose()?;
            history.read(&key, floor, revision.map(|item| item.revision));
            Ok(())
        });
        Some(found)
    }

    /// Sends a write; `None` if it does not fit with what was seen.
    async fn send(&mut self, resource: &str, name: &str, intent: Intent, found: &Value) -> Option<Outcome> {
        let (token, rng) = (self.world.token(), &self.world.rng);
        let field = format!("f{}", rng.below(FIELDS));
        let (method, path, body) =
            request(resource, name, &intent, (token, &field), found, rng.below(2) == 0);
        let key = format!("{resource}/{name}");
        self.world.ask(|history| history.begin(token, &key, &field, intent.clone()));
        let answer = self.caller().call(method.clone(), &path, Some(&body)).await;
        self.known.remove(name);
        let outcome = match answer {
            Answer::Told(200..300, _) if matches!(intent, Intent::Delete(..)) => Outcome::Done(None),
            Answer::Told(200..300, object) => {
                let seen = self.world.note(|_| item(resource, &object))?;
                self.known.insert(name.to_owned(), object);
                Outcome::Done(Some(seen))
            }
            Answer::Told(code @ (404 | 409), _) => Outcome::Refused(code),
            Answer::Told(code, body) => {
                self.world.note_odd(format!("{method} {code}: {}", body["message"]));
                Outcome::Unknown
            }
            Answer::Lost(_) => Outcome::Unknown,
        };
        self.world.note(|history| history.end(token, outcome.clone()))?;
        Some(outcome)
    }
}

/// The request of a write.
fn request(
    resource: &str,
    name: &str,
    intent: &Intent,
    (token, field): (u64, &str),
    found: &Value,
    exposed: bool,
) -> (Method, String, Value) {
    let annotations = json!({annotation(field): text(token)});
    match intent {
        Intent::Create => {
            let group = if name.len().is_multiple_of(2) { "a" } else { "b" };
            let kind = if resource == "services" { "Service" } else { "ConfigMap" };
            let metadata = json!({"name": name, "namespace": NAMESPACE, "annotations": annotations,
                "labels": {"group": group}});
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
            if resource == "services" {
                let service = if exposed { "NodePort" } else { "ClusterIP" };
                object["spec"] = json!({"type": service, "ports": [{"port": 80, "protocol": "TCP"}]});
            }
            (Method::POST, path(resource, ""), object)
        }
        Intent::Replace(revision) => {
            let mut object = found.clone();
            object["metadata"]["annotations"] = annotations;
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            (Method::PUT, path(resource, name), object)
        }
        Intent::Patch(revision) => {
            let mut patch = json!({"metadata": {"annotations": annotations}});
            if let Some(revision) = revision {
                patch["metadata"]["resourceVersion"] = revision.to_string().into();
            }
            (Method::PATCH, path(resource, name), patch)
        }
        Intent::Delete(uid, revision) => {
            let mut conditions = json!({"uid": uid});
            if let Some(revision) = revision {
                conditions["resourceVersion"] = revision.to_string().into();
            }
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions});
            (Method::DELETE, path(resource, name), options)
        }
    }
}

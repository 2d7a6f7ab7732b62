//! The watchers: each lists, watches, and goes on where it was when its server has gone.

use std::sync::Arc;
use std::time::Duration;

use client::{ClientError, WatchEvent, WatchStream};
use http::Method;
use serde_json::Value;

use crate::call::{Answer, Caller, NAMESPACE, item, ours, path};
use crate::history::{Filter, Item, Kind};
use crate::world::World;

/// How a watcher begins, and how it goes on after a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Lists once, goes on from the last revision.
    Resume,
    /// Asks for the initial events with the watch, goes on from the last revision.
    Stream,
    /// Asks for the initial events after every break.
    Anew,
    /// Goes back in history after every break.
    Rewind,
}

/// A kind of watcher.
pub struct Plan {
    name: &'static str,
    resource: &'static str,
    style: Style,
    /// Of all namespaces, not ours alone.
    everywhere: bool,
    /// Parameters of list and watch.
    selector: &'static str,
    covers: Filter,
}

fn config_map(key: &str) -> bool {
    key.starts_with("configmaps/")
}

fn service(key: &str) -> bool {
    key.starts_with("services/")
}

/// Objects with names of even length are in group `a`: `shared-0` is.
fn group_a(key: &str) -> bool {
    config_map(key) && key["configmaps/".len()..].len().is_multiple_of(2)
}

fn first(key: &str) -> bool {
    key == "configmaps/shared-0"
}

/// One watcher each.
pub const PLANS: &[Plan] = &[
    Plan {
        name: "all namespaces",
        resource: "configmaps",
        style: Style::Resume,
        everywhere: true,
        selector: "",
        covers: config_map,
    },
    Plan {
        name: "watch list",
        resource: "configmaps",
        style: Style::Stream,
        everywhere: false,
        selector: "",
        covers: config_map,
    },
    Plan {
        name: "by label",
        resource: "configmaps",
        style: Style::Resume,
        everywhere: false,
        selector: "&labelSelector=group%3Da",
        covers: group_a,
    },
    Plan {
        name: "one object",
        resource: "configmaps",
        style: Style::Anew,
        everywhere: false,
        selector: "&fieldSelector=metadata.name%3Dshared-0",
        covers: first,
    },
    Plan {
        name: "back in history",
        resource: "configmaps",
        style: Style::Rewind,
        everywhere: false,
        selector: "",
        covers: config_map,
    },
    Plan {
        name: "services",
        resource: "services",
        style: Style::Resume,
        everywhere: true,
        selector: "",
        covers: service,
    },
    Plan {
        name: "services anew",
        resource: "services",
        style: Style::Anew,
        everywhere: false,
        selector: "",
        covers: service,
    },
];

/// Commits that a watcher goes back at most.
const BACK: u64 = 600;
/// A watch from which nothing comes for this long is looked at for the end of the run.
const LOOK: Duration = Duration::from_millis(200);

struct Watcher {
    world: Arc<World>,
    callers: Vec<Caller>,
    plan: &'static Plan,
    number: usize,
}

/// Why a watch ended.
enum Ended {
    /// The connection broke, or the server is not there.
    Broken,
    /// History does not reach back to where it should begin.
    Gone,
}

/// Watches until the run stops. The watcher counts from this call on.
pub fn watch(world: Arc<World>, plan: &'static Plan) -> impl Future<Output = ()> {
    let number = world.ask(|history| history.watcher(plan.name, plan.covers));
    go_on(world, plan, number)
}

async fn go_on(world: Arc<World>, plan: &'static Plan, number: usize) {
    let callers = world.callers();
    let watcher = Watcher { world, callers, plan, number };
    let mut fresh = true;
    while !watcher.world.stopping() {
        match watcher.once(fresh).await {
            Some(Ended::Gone) => {
                watcher.world.note_odd(format!("{}: history had gone", plan.name));
                fresh = true;
            }
            Some(Ended::Broken) => {
                fresh = watcher.world.ask(|history| history.last(watcher.number)) == 0;
                watcher.world.pause().await;
            }
            None => return,
        }
    }
}

impl Watcher {
    fn caller(&self) -> &Caller {
        &self.callers[self.world.rng.below(self.callers.len() as u64) as usize]
    }

    fn path(&self) -> String {
        let plan = self.plan;
        if plan.everywhere { format!("/api/v1/{}", plan.resource) } else { path(plan.resource, "") }
    }

    /// One connection; `None` when something does not fit.
    async fn once(&self, fresh: bool) -> Option<Ended> {
        let caller = self.caller();
        let style = self.plan.style;
        let initial = style == Style::Anew || (fresh && style == Style::Stream);
        if fresh && !initial && !self.list(caller).await? {
            return Some(Ended::Broken);
        }
        if !fresh && style == Style::Rewind {
            let back = self.world.rng.below(BACK);
            let number = self.number;
            self.world.ask(|history| history.rewound(number, history.earlier(back).max(1)));
        }
        let from = match initial {
            true => "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
            false => format!("&resourceVersion={}", self.world.ask(|history| history.last(self.number))),
        };
        let selector = self.plan.selector;
        let path = format!("{}?watch=true&allowWatchBookmarks=true{from}{selector}", self.path());
        let Ok(response) = caller.open(Method::GET, &path, None).await else { return Some(Ended::Broken) };
        match response.status().as_u16() {
            200 => {
                let stream = WatchStream::<Value>::new(response.into_body(), path);
                self.follow(stream, initial).await
            }
            410 => Some(Ended::Gone),
            code => {
                self.world.note_odd(format!("watch {code}"));
                Some(Ended::Broken)
            }
        }
    }

    /// Lists; false if there was no answer.
    async fn list(&self, caller: &Caller) -> Option<bool> {
        let path = format!("{}?limit=0{}", self.path(), self.plan.selector);
        let Answer::Told(200, list) = caller.call(Method::GET, &path, None).await else { return Some(false) };
        let objects = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.listed(&list["metadata"]["resourceVersion"], objects).map(|()| true)
    }

    fn listed(&self, revision: &Value, objects: &[Value]) -> Option<()> {
        let resource = self.plan.resource;
        self.world.note(|history| {
            let items = objects.iter().filter(|object| ours(object)).map(|object| item(resource, object));
            let items: Vec<Item> = items.collect::<Result<_, _>>()?;
            let revision = revision.as_str().and_then(|text| text.parse().ok());
            history.listed(self.number, revision.ok_or("a list without a resource version")?, items);
            Ok(())
        })
    }

    async fn follow(&self, mut stream: WatchStream<Value>, mut initial: bool) -> Option<Ended> {
        let mut gathered = Vec::new();
        loop {
            let Some(next) = self.world.clock.timeout(LOOK, stream.next()).await else {
                if self.world.stopping() {
                    return None;
                }
                continue;
            };
            let event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) if error.is_expired() => return Some(Ended::Gone),
                Some(Err(ClientError::Decode { what, source })) if self.world.stopping() => {
                    self.world.note_odd(format!("{what}: {source}"));
                    return Some(Ended::Broken);
                }
                _ => return Some(Ended::Broken),
            };
            match event {
                WatchEvent::Added(object) if initial => gathered.push(object),
                WatchEvent::Bookmark { resource_version, initial_events_end: true } if initial => {
                    self.listed(&resource_version.into(), &std::mem::take(&mut gathered))?;
                    initial = false;
                }
                event if initial => self.world.fail(format!("{}: {event:?} at the start", self.plan.name)),
                event => self.told(event)?,
            }
        }
    }

    fn told(&self, event: WatchEvent<Value>) -> Option<()> {
        let (kind, object) = match event {
            WatchEvent::Added(object) => (Kind::Added, object),
            WatchEvent::Modified(object) => (Kind::Modified, object),
            WatchEvent::Deleted(object) => (Kind::Deleted, object),
            WatchEvent::Bookmark { resource_version, .. } => {
                let revision = resource_version.parse().unwrap_or(0);
                return self.world.note(|history| history.progressed(self.number, revision));
            }
        };
        if !ours(&object) {
            return Some(());
        }
        self.world.note(|history| history.told(self.number, kind, item(self.plan.resource, &object)?))
    }
}

/// What the store has, as one reader finds it: every object of a resource by a list and by itself.
///
/// # Errors
/// The two differ.
pub async fn compare(caller: &Caller, resource: &str) -> Result<usize, String> {
    let Answer::Told(200, list) = caller.call(Method::GET, &path(resource, ""), None).await else {
        return Err(format!("no list of {resource} of {NAMESPACE}"));
    };
    let objects = list["items"].as_array().cloned().unwrap_or_default();
    for object in objects.iter().filter(|object| ours(object)) {
        let listed = item(resource, object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let answer = caller.call(Method::GET, &path(resource, name), None).await;
        let Answer::Told(200, single) = answer else { return Err(format!("{name}: {answer:?}")) };
        let single = item(resource, &single)?;
        if single != listed {
            return Err(format!("listed as {listed:?}, read as {single:?}"));
        }
    }
    Ok(objects.len())
}

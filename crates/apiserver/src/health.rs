//! Health checks: `/healthz`, `/livez`, `/readyz`, and each check below them, under upstream's names. It must not
//! know who asks.

use std::time::Duration;

use base::http::Body;
use http::{Response, StatusCode};

use crate::respond;
use crate::server::{Exchange, Server};

/// How long the store may take to answer (`--etcd-healthcheck-timeout`).
const STORE_LIMIT: Duration = Duration::from_secs(2);

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// That the server answers at all.
    Alive,
    /// The store: its members, when it is elsewhere.
    Store,
    /// What must be there before the first request: informers, roles, priority classes, addresses.
    Started,
    /// That the server is not shutting down.
    Staying,
}

/// Checks in the order told, what they look at, and whether only readiness asks for them.
const CHECKS: &[(&str, Source, bool)] = &[
    ("ping", Source::Alive, false),
    ("log", Source::Alive, false),
    ("etcd", Source::Store, false),
    ("etcd-readiness", Source::Store, true),
    ("informer-sync", Source::Started, true),
    ("poststarthook/start-apiserver-admission-initializer", Source::Started, false),
    ("poststarthook/generic-apiserver-start-informers", Source::Started, false),
    ("poststarthook/priority-and-fairness-config-consumer", Source::Started, false),
    ("poststarthook/priority-and-fairness-filter", Source::Started, false),
    ("poststarthook/storage-object-count-tracker-hook", Source::Started, false),
    ("poststarthook/start-apiextensions-informers", Source::Started, false),
    ("poststarthook/start-apiextensions-controllers", Source::Started, false),
    ("poststarthook/crd-informer-synced", Source::Started, false),
    ("poststarthook/start-system-namespaces-controller", Source::Started, false),
    ("poststarthook/start-cluster-authentication-info-controller", Source::Started, false),
    ("poststarthook/start-kube-apiserver-identity-lease-controller", Source::Started, false),
    ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Source::Started, false),
    ("poststarthook/storage-readiness", Source::Store, false),
    ("poststarthook/start-legacy-token-tracking-controller", Source::Started, false),
    ("poststarthook/start-service-ip-repair-controllers", Source::Started, false),
    ("poststarthook/rbac/bootstrap-roles", Source::Started, false),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Source::Started, false),
    ("poststarthook/priority-and-fairness-config-producer", Source::Started, false),
    ("poststarthook/bootstrap-controller", Source::Started, false),
    ("poststarthook/start-kubernetes-service-cidr-controller", Source::Started, false),
    ("poststarthook/aggregator-reload-proxy-client-cert", Source::Started, false),
    ("poststarthook/start-kube-aggregator-informers", Source::Started, false),
    ("poststarthook/apiservice-status-local-available-controller", Source::Started, false),
    ("poststarthook/apiservice-status-remote-available-controller", Source::Started, false),
    ("poststarthook/apiservice-registration-controller", Source::Started, false),
    ("poststarthook/apiservice-wait-for-first-sync", Source::Started, false),
    ("poststarthook/apiservice-discovery-controller", Source::Started, false),
    ("poststarthook/kube-apiserver-autoregistration", Source::Started, false),
    ("autoregister-completion", Source::Started, false),
    ("poststarthook/apiservice-openapi-controller", Source::Started, false),
    ("poststarthook/apiservice-openapiv3-controller", Source::Started, false),
    ("shutdown", Source::Staying, true),
];

/// The checks of an endpoint (`healthz`, `livez` or `readyz`).
fn checks(kind: &str) -> impl Iterator<Item = (&'static str, Source)> {
    let ready = kind == "readyz";
    CHECKS
        .iter()
        .filter(move |(_, _, only_ready)| ready || !only_ready)
        .map(|(name, source, _)| (*name, *source))
}

/// Every path of a health check, for the root's list.
pub fn paths() -> impl Iterator<Item = String> {
    ["healthz", "livez", "readyz"].into_iter().flat_map(|kind| {
        let below = checks(kind).map(move |(name, _)| format!("/{kind}/{name}"));
        std::iter::once(format!("/{kind}")).chain(below)
    })
}

/// Whether the store answers.
async fn store(server: &Server) -> Result<(), String> {
    match server.clock.timeout(STORE_LIMIT, server.store.check()).await {
        Some(answer) => answer.map_err(|error| error.to_string()),
        None => Err("context deadline exceeded".to_owned()),
    }
}

/// What is known without asking anybody.
fn here(server: &Server, source: Source) -> Result<(), String> {
    match source {
        Source::Started if !server.is_ready() => Err("not finished".to_owned()),
        Source::Staying if server.tasks.cancel_token().is_cancelled() => {
            Err("process is shutting down".to_owned())
        }
        Source::Alive | Source::Store | Source::Started | Source::Staying => Ok(()),
    }
}

/// Answers `/{kind}` or `/{kind}/{check}`; `None` when there is no such check. The store is asked once, and only for
/// checks that look at it.
pub async fn serve(server: &Server, exchange: &Exchange, kind: &str, check: &str) -> Option<Response<Body>> {
    if !check.is_empty() {
        let (_, source) = checks(kind).find(|(name, _)| *name == check)?;
        let verdict = if source == Source::Store { store(server).await } else { here(server, source) };
        return Some(match verdict {
            Ok(()) => respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
            Err(why) => {
                let text = format!("internal server error: {why}\n");
                respond::plain(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        });
    }
    let store = store(server).await;
    let verdict = |source| if source == Source::Store { store.clone() } else { here(server, source) };
    let excluded: Vec<&str> = exchange.query.all("exclude").collect();
    let (lines, good) = report(kind, &excluded, verdict);
    Some(if !good {
        respond::plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{kind} check failed\n"))
    } else if exchange.query.get("verbose").is_some() {
        respond::plain(StatusCode::OK, format!("{lines}{kind} check passed\n"))
    } else {
        respond::plain(StatusCode::OK, "ok")
    })
}

/// One line for each check; why one failed goes to the log, as anybody may ask.
fn report(kind: &str, excluded: &[&str], verdict: impl Fn(Source) -> Result<(), String>) -> (String, bool) {
    let (mut lines, mut good) = (String::new(), true);
    for (name, source) in checks(kind) {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match verdict(source) {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::debug!(kind, check = name, %why, "a health check failed");
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                good = false;
            }
        }
    }
    let mut unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !name.is_empty() && !checks(kind).any(|(known, _)| known == **name))
        .map(|name| api::validation::go_quote(name))
        .collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let all = unknown.join(", ");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {all}\n"));
    }
    (lines, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_store_fails_what_needs_it() {
        let down = |source| if source == Source::Store { Err("gone".to_owned()) } else { Ok(()) };
        let (lines, good) = report("readyz", &[], down);
        assert!(!good && lines.contains("[-]etcd failed: reason withheld\n"));
        assert!(lines.contains("[-]etcd-readiness failed") && lines.contains("[+]shutdown ok\n"));
        let all = ["etcd", "etcd-readiness", "poststarthook/storage-readiness", "z", "a"];
        let (lines, good) = report("readyz", &all, down);
        assert!(good && lines.contains("[+]etcd excluded: ok\n"));
        assert!(lines.ends_with("no matches for \"a\", \"z\"\n"), "{lines}");
        let (lines, _) = report("livez", &[], |_| Ok(()));
        assert!(!lines.contains("+]shutdown") && !lines.contains("+]informer-sync"));
        assert!(paths().any(|path| path == "/livez/poststarthook/rbac/bootstrap-roles"));
    }
}

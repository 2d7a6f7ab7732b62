//! From what a user names to a pod and a container: shared by logs, exec, attach, cp and port-forward.
//!
//! Must not know what is done there.

use std::time::Duration;

use serde_json::Value;

use crate::app::App;
use crate::describe::{list, text};
use crate::select::{self, Info, Pick, Picked, Selector};
use crate::verbs::wait;
use crate::{Error, request};

/// The container people mean when they name none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The labels of the pods that belong to an object; `None` for kinds without pods.
pub fn selector(object: &Value, kind: &str) -> Option<String> {
    let held = &object["spec"]["selector"];
    let text = match kind {
        "Service" | "ReplicationController" => crate::print::table::labels_text(held),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => crate::describe::selector(held),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty() && text != "<none>")
}

/// The pods of an object, the one most worth looking at first.
pub async fn of(app: &App, info: &Info) -> Result<Vec<Info>, Error> {
    let resource = &info.kind.resource;
    if resource.kind == "Pod" {
        return Ok(vec![info.clone()]);
    }
    let Some(labels) = selector(&info.object, &resource.kind) else {
        return Err(Error::state(format!(
            "cannot get the logs from {}: selector for {} not implemented",
            info.title(),
            resource.kind
        )));
    };
    let row = app.kinds().await?.resource("pods")?;
    let select = request::Select { labels, ..request::Select::default() };
    let path = row.resource.gvr.path(&info.namespace, "");
    let list = request::list(app.client()?, &path, &select, "", &[]).await?;
    let mut pods: Vec<Info> =
        select::items(&list).into_iter().map(|pod| select::info_of(&row, pod)).collect();
    pods.sort_by_key(|pod| rank(&pod.object));
    Ok(pods)
}

/// Assigned before not, running before pending, ready before not, the youngest first.
fn rank(pod: &Value) -> (bool, u8, bool, std::cmp::Reverse<String>) {
    let phase = match text(pod, "/status/phase") {
        "Running" => 0,
        "Pending" => 1,
        _ => 2,
    };
    let ready = list(pod, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let created = text(pod, "/metadata/creationTimestamp").to_owned();
    (text(pod, "/spec/nodeName").is_empty(), phase, !ready, std::cmp::Reverse(created))
}

/// The one pod that words such as `x`, `pod/x`, `deploy/x` or `pod x` name; waits until an object has one.
pub async fn one(app: &App, words: &[String], limit: Duration) -> Result<Info, Error> {
    let args = crate::flags::Args::default();
    let mut words = words.to_vec();
    if let [name] = words.as_slice()
        && !name.contains('/')
    {
        words.insert(0, "pods".to_owned());
    }
    let picked = select::pick(app, &args, &Selector { words: &words, ..Selector::default() }).await?;
    let (mut infos, errors) = select::fetch(app, &picked).await;
    Error::all(errors)?;
    if infos.len() != 1 {
        return Err(Error::usage("expected one object"));
    }
    let info = infos.remove(0);
    let looking = async {
        loop {
            let pods = of(app, &info).await?;
            if let Some(pod) = pods.into_iter().next() {
                return Ok(pod);
            }
            app.clock.sleep(Duration::from_millis(500)).await;
        }
    };
    let limit = if limit.is_zero() { wait::LONGEST } else { limit };
    match app.clock.timeout(limit, looking).await {
        Some(found) => found,
        None => Err(Error::state("timed out waiting for the condition")),
    }
}

/// All pods that fit a selector.
pub async fn selected(app: &App, labels: &str) -> Result<Vec<Info>, Error> {
    let kind = app.kinds().await?.resource("pods")?;
    let pick = Pick::Many { kind, namespace: app.namespace()? };
    let select = request::Select { labels: labels.to_owned(), ..request::Select::default() };
    let (infos, errors) = select::fetch(app, &Picked { picks: vec![pick], single: false, select }).await;
    Error::all(errors)?;
    Ok(infos)
}

/// Names of all containers of a pod, as messages list them.
pub fn names(pod: &Value) -> Vec<String> {
    let mut found: Vec<String> =
        list(pod, "/spec/containers").iter().map(|container| text(container, "/name").to_owned()).collect();
    for (field, note) in [("/spec/initContainers", " (init)"), ("/spec/ephemeralContainers", " (ephem)")] {
        found.extend(list(pod, field).iter().map(|container| format!("{}{note}", text(container, "/name"))));
    }
    found
}

/// The container of this name, or the default one; `quiet` leaves out the note about the choice.
pub fn container(app: &App, pod: &Value, name: &str, quiet: bool) -> Result<Value, Error> {
    let annotation = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().unwrap_or_default();
    let wanted = if name.is_empty() { annotation } else { name };
    let all = names(pod);
    if !wanted.is_empty() {
        let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
        let found =
            lists.iter().flat_map(|field| list(pod, field)).find(|container| container["name"] == wanted);
        let pod_name = text(pod, "/metadata/name");
        let missing = || {
            Error::usage(format!(
                "container {wanted} is not valid for pod {pod_name} out of: {}",
                all.join(", ")
            ))
        };
        return found.cloned().ok_or_else(missing);
    }
    let Some(first) = list(pod, "/spec/containers").first() else {
        return Err(Error::state(format!(
            "pod {} does not have any containers",
            text(pod, "/metadata/name")
        )));
    };
    if all.len() > 1 && !quiet {
        let name = text(first, "/name");
        app.err.line(&format!("Defaulted container {name:?} out of: {}", all.join(", ")));
    }
    Ok(first.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_best_pod_comes_first() {
        let pod = |name: &str, phase: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase}});
        let mut pods = vec![
            pod("pending", "Pending", ""),
            pod("running", "Running", "n"),
            pod("done", "Succeeded", "n"),
        ];
        pods.sort_by_key(rank);
        let names: Vec<&str> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
        assert_eq!(names, ["running", "done", "pending"]);
    }

    #[test]
    fn selectors_of_kinds() {
        let service = json!({"spec": {"selector": {"a": "b"}}});
        assert_eq!(selector(&service, "Service").as_deref(), Some("a=b"));
        assert_eq!(selector(&json!({"spec": {}}), "Service"), None);
        let job = json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}});
        assert_eq!(selector(&job, "Job").as_deref(), Some("c=d"));
        assert_eq!(selector(&job, "ConfigMap"), None);
    }
}

//! Lifecycle hooks: what runs in or for a container after its start and before its stop.
//!
//! Must not know events or status.

use std::time::Duration;

use api::k8s::api::core::v1::{Container, LifecycleHandler};

use crate::http_get::Get;
use crate::shared::Shared;

/// Longest wait for a hook's HTTP answer.
const HTTP_LIMIT: Duration = Duration::from_secs(60);

/// Runs a hook. An error is the text to show.
pub async fn run(
    shared: &Shared,
    container: &Container,
    id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let text = format!("{command:?}").replace("\", \"", " ").replace("[\"", "[").replace("\"]", "]");
        let output =
            shared.cri.exec_sync(id, command, Duration::ZERO).await.map_err(|error| error.to_string())?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let name = &container.name;
        return Err(format!(
            "Exec lifecycle hook ({text}) for Container {name:?} failed - error: command '{}' exited with {}: {said}, message: {said:?}",
            text.trim_matches(['[', ']']),
            output.exit_code
        ));
    }
    if let Some(action) = &hook.http_get {
        let mut get = Get::new(action, container, pod_ip)?;
        let agent = "kube-lifecycle/1.36";
        let answer = match get.send(agent, HTTP_LIMIT, &shared.clock, &shared.tasks).await {
            // A server that turns out to speak plain HTTP is asked again so, as upstream does.
            Err(error) if get.https && error.contains("corrupt message") => {
                get.https = false;
                get.send(agent, HTTP_LIMIT, &shared.clock, &shared.tasks).await?
            }
            answer => answer?,
        };
        let _ = answer;
        return Ok(());
    }
    if let Some(sleep) = &hook.sleep {
        shared.clock.sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("cannot run handler: unknown type".to_owned())
}

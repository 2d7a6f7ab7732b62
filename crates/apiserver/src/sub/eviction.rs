//! Eviction: a deletion that disruption budgets may refuse.

use api::ApiError;
use api::error::Cause;
use api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use api::labels::Selector;
use base::http::Body;
use http::Response;
use registry::tree::Tree;
use serde_json::{Value, json};

use super::{created, raw_change};
use crate::admission::policy::cached;
use crate::admission::{Operation, Review};
use crate::object;
use crate::verbs::{Call, delete_named};
use crate::write::{self, Target, WriteOptions};

/// A budget's record of evictions is pruned by its controller; beyond this many it must catch up first.
const MAX_DISRUPTED: usize = 2000;

const BUDGETS: &str = "policy/poddisruptionbudgets";

/// A budget with its selector read.
pub struct Guard {
    budget: Value,
    selector: Selector,
}

impl Guard {
    /// A budget whose selector cannot be read guards nothing.
    fn new(budget: Value) -> Guard {
        let selector: Option<LabelSelector> = serde_json::from_value(budget.at("spec.selector").clone()).ok();
        let selector = Selector::from_object(selector.as_ref()).unwrap_or_else(|_| Selector::nothing());
        Guard { budget, selector }
    }
}

/// POST of an Eviction to `pods/NAME/eviction`.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call.exchange, "CreateOptions")?;
    let body = write::read_body(body).await?;
    let eviction = decode(call, &body, &options)?;
    let review = Review::new(call, Operation::Create, &options);
    call.server.admission.announce(&review, &eviction, None).await?;
    call.server.admission.validate(&review, Some(&eviction), None).await?;
    let own = eviction.text("metadata.name");
    if !own.is_empty() && own != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete_options = eviction.at("deleteOptions").clone();
    if !delete_options.is_object() {
        delete_options = json!({});
    }
    if options.dry_run {
        delete_options["dryRun"] = json!(["All"]);
    }
    let dry = delete_options["dryRun"].as_array().is_some_and(|all| !all.is_empty());
    let pod = object::tree(&*call.server.find(call.row(), call.namespace(), call.name())?);
    let mut guard = false;
    if !ignores_budgets(&pod) {
        guard = check_budgets(call, &pod, dry).await?;
    }
    if guard && delete_options.at("preconditions.resourceVersion").is_null() {
        delete_options.set("preconditions.resourceVersion", pod.at("metadata.resourceVersion").clone());
    }
    finish(call, delete_options, dry).await?;
    created(call)
}

fn decode(call: &Call<'_>, body: &[u8], options: &WriteOptions) -> Result<Value, ApiError> {
    let target = Target { group: "policy", version: "v1", kind: "Eviction", custom: false };
    if let Ok(mut tree) = serde_json::from_slice::<Value>(body)
        && tree["apiVersion"] == "policy/v1beta1"
    {
        tree["apiVersion"] = "policy/v1".into();
        return write::decode(call.exchange, target, tree.to_string().as_bytes(), options.validation);
    }
    write::decode(call.exchange, target, body, options.validation)
}

fn ignores_budgets(pod: &Value) -> bool {
    matches!(pod.text("status.phase"), "Succeeded" | "Failed" | "Pending" | "")
        || pod.has("metadata.deletionTimestamp")
}

fn is_ready(pod: &Value) -> bool {
    pod.list("status.conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Counts the disruption against the pod's budget. True when the pod must not have changed since.
async fn check_budgets(call: &Call<'_>, pod: &Value, dry: bool) -> Result<bool, ApiError> {
    let labels = pod.map("metadata.labels");
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let guards = cached(call.server, BUDGETS, Some(call.namespace()), &call.server.guards, Guard::new);
    let found: Vec<_> = guards.iter().filter(|guard| guard.selector.matches_with(label)).collect();
    let budget = match found.as_slice() {
        [] => return Ok(false),
        [guard] => &guard.budget,
        _ => {
            let mut error = ApiError::internal("");
            error.message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".to_owned();
            error.details = None;
            return Err(error);
        }
    };
    if !is_ready(pod) {
        let (healthy, desired) = (budget.int("status.currentHealthy"), budget.int("status.desiredHealthy"));
        if budget.text("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow"
            || (healthy >= desired && desired > 0)
        {
            return Ok(true);
        }
    }
    decrement(call, budget.text("metadata.name"), dry).await?;
    Ok(false)
}

fn too_many(name: &str, detail: &str) -> ApiError {
    let cause = Cause {
        reason: "DisruptionBudget".to_owned(),
        message: detail.replace("{}", name),
        field: String::new(),
    };
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut error = ApiError::too_many_requests(message, 10).with_causes(vec![cause]);
    if !detail.contains("still being processed") {
        error.details.get_or_insert_default().retry_after_seconds = 0;
    }
    error
}

async fn decrement(call: &Call<'_>, name: &str, dry: bool) -> Result<(), ApiError> {
    let catalog = call.server.rows.now();
    let row = catalog.get("policy", "v1", "poddisruptionbudgets").ok_or_else(ApiError::no_such_path)?;
    let (pod, now) = (call.name().to_owned(), api::time::format(call.exchange.now));
    raw_change(call, row, call.namespace(), name, dry, &mut |budget| {
        if budget.int("status.observedGeneration") < budget.int("metadata.generation") {
            return Err(too_many(name, "The disruption budget {} is still being processed by the server."));
        }
        let allowed = budget.int("status.disruptionsAllowed");
        if allowed < 0 {
            return Err(ApiError::forbidden("policy", "poddisruptionbudget", name, "pdb disruptions allowed is negative"));
        }
        if budget.map("status.disruptedPods").len() > MAX_DISRUPTED {
            return Err(ApiError::forbidden("policy", "poddisruptionbudget", name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
        }
        if allowed == 0 {
            let (needed, healthy) = (budget.int("status.desiredHealthy"), budget.int("status.currentHealthy"));
            let detail = format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently");
            return Err(too_many(name, &detail));
        }
        budget.set("status.disruptionsAllowed", allowed - 1);
        if allowed == 1 {
            let message = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
                "message": "", "lastTransitionTime": now, "observedGeneration": budget.int("status.observedGeneration")});
            let mut conditions: Vec<Value> =
                budget.list("status.conditions").iter().filter(|c| c["type"] != "DisruptionAllowed").cloned().collect();
            conditions.push(message);
            budget.set("status.conditions", conditions);
        }
        if !budget.at("status.disruptedPods").is_object() {
            budget.set("status.disruptedPods", json!({}));
        }
        budget["status"]["disruptedPods"][&pod] = now.clone().into();
        Ok(())
    })
    .await
    .map(|_| ())
}

/// Notes the reason on the pod and deletes it.
async fn finish(call: &Call<'_>, mut options: Value, dry: bool) -> Result<(), ApiError> {
    let now = call.exchange.now;
    if !dry {
        let asked = options.at("preconditions.resourceVersion").clone();
        let row = call.served.row.clone();
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"});
        let changed = raw_change(call, &row, call.namespace(), call.name(), false, &mut |pod| {
            if asked.as_str().is_some_and(|asked| asked != pod.text("metadata.resourceVersion")) {
                return Err(too_many("", "The disruption budget {} is still being processed by the server."));
            }
            registry::pod::set_condition(pod, condition.clone(), now);
            Ok(())
        })
        .await?;
        if !asked.is_null() {
            options.set("preconditions.resourceVersion", changed.revision.to_string());
        }
    }
    delete_named(call, call.namespace(), call.name(), &options).await.map(|_| ())
}

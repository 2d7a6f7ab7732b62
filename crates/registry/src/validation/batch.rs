//! Jobs and cron jobs.

use api::names;
use serde_json::{Value, json};

use super::apps::selects;
use super::{ErrorKind, ErrorList, FieldError, Path, Report, meta, pod};
use crate::strategy::differs;
use crate::tree::Tree;

pub(super) fn bare(errors: &mut ErrorList, path: &Path, detail: &str) {
    errors.push(FieldError {
        kind: ErrorKind::Invalid,
        path: path.clone(),
        value: None,
        detail: detail.to_string(),
    });
}

/// A new job.
pub fn job(j: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    generated_selector(&mut errors, j);
    whole_spec(&mut errors, j.at("spec"), &Path::new("spec"));
    let completions = j.int("spec.completions");
    if j.text("spec.completionMode") == "Indexed" && completions > 0 {
        let name = j.text("metadata.name");
        let host = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
    }
    errors
}

fn generated_selector(errors: &mut ErrorList, j: &Value) {
    if j.flag("spec.manualSelector") || !j.has("spec.selector") {
        return;
    }
    let (name, uid) = (j.text("metadata.name"), j.text("metadata.uid"));
    let labels = j.map("spec.template.metadata.labels");
    let path = Path::new("spec").child("template.metadata.labels");
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, value) in expected {
        let detail = format!("must be '{value}'");
        match labels.get(key) {
            None => errors.required(&path.key(key), &detail),
            Some(have) if have != value => {
                errors.invalid(&path.key(key), Value::Object(labels.clone()), detail);
            }
            Some(_) => {}
        }
    }
    let all: serde_json::Map<String, Value> =
        expected.iter().map(|(k, v)| ((*k).to_string(), json!(v))).collect();
    if !selects(j.at("spec.selector"), &Value::Object(all)) {
        let at = Path::new("spec").child("selector");
        errors.invalid(&at, j.at("spec.selector").clone(), "`selector` not auto-generated");
    }
}

fn whole_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    job_spec(errors, spec, path);
    let (selector, at) = (spec.at("selector"), path.child("selector"));
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        meta::selector(errors, selector, &at);
    }
    let labels = spec.at("template.metadata.labels");
    if selector.is_null() || !selects(selector, labels) {
        let at = path.child("template.metadata.labels");
        errors.invalid(&at, labels.clone(), "`selector` does not match template `labels`");
    }
}

fn job_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.non_negative(&path.child(field), spec.int(field));
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec.at("managedBy").as_str() {
        let at = path.child("managedBy");
        domain_prefixed(errors, manager, &at);
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&at, 63));
        }
    }
    indexes(errors, spec, path);
    if spec.has("podFailurePolicy") {
        failure_policy(errors, spec, &path.child("podFailurePolicy.rules"));
    }
    if spec.has("successPolicy") {
        let at = path.child("successPolicy");
        if spec.text("completionMode") == "Indexed" {
            success_policy(errors, spec, &at.child("rules"));
        } else {
            let rules = spec.at("successPolicy.rules");
            let value = json!({"Rules": rules});
            errors.invalid(&at, value, "requires indexed completion mode");
        }
    }
    if let Some(policy) = spec.at("podReplacementPolicy").as_str() {
        let all: &[&str] =
            if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        errors.one_of(&path.child("podReplacementPolicy"), policy, all);
    }
    pod::template(errors, spec.at("template"), &path.child("template"));
    let (policy, at) = (spec.text("template.spec.restartPolicy"), path.child("template.spec.restartPolicy"));
    match policy {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&at, policy, detail);
        }
        other => errors.one_of(&at, other, &["OnFailure", "Never"]),
    }
}

/// A domain-prefixed path such as `example.com/controller`.
pub fn domain_prefixed(errors: &mut ErrorList, text: &str, path: &Path) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((domain, rest)) = text.split_once('/').filter(|(d, r)| !d.is_empty() && !r.is_empty()) else {
        errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for message in names::dns1123_subdomain(domain) {
        errors.invalid(path, domain, message);
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/:@-._~%!$&'()*+,;=".contains(&b);
    if !rest.bytes().all(good) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, detail);
    }
}

fn indexes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (mode, completions) = (spec.text("completionMode"), spec.at("completions").as_i64());
    if spec.has("completionMode") {
        errors.one_of(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    let (parallelism, failed) = (spec.int("parallelism"), spec.at("maxFailedIndexes").as_i64());
    let failed_at = path.child("maxFailedIndexes");
    if !spec.has("completionMode") || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = spec.at(field).as_i64() {
                errors.invalid(&path.child(field), n, "requires indexed completion mode");
            }
        }
    }
    if mode != "Indexed" {
        return;
    }
    if completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if parallelism > 100_000 {
        let detail = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.invalid(&path.child("parallelism"), parallelism, detail);
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        errors.invalid(&failed_at, n, "must be less than or equal to completions");
    }
    if let Some(n) = failed.filter(|n| *n > 100_000) {
        errors.invalid(&failed_at, n, "must be less than or equal to 100000");
    }
    if completions.is_some_and(|c| c > 100_000) && spec.has("backoffLimitPerIndex") {
        const WHEN: &str = "when completions are above 100000 and used with backoff limit per index";
        if failed.is_none() {
            errors.required(&failed_at, "must be specified when completions is above 100000");
        }
        if parallelism > 10_000 {
            let detail = format!("must be less than or equal to 10000 {WHEN}");
            errors.invalid(&path.child("parallelism"), parallelism, detail);
        }
        if let Some(n) = failed.filter(|n| *n > 10_000) {
            errors.invalid(&failed_at, n, format!("must be less than or equal to 10000 {WHEN}"));
        }
    }
}

fn failure_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = spec.list("podFailurePolicy.rules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(path, rules.len(), 20));
    }
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let (action, at) = (rule.text("action"), path.child("action"));
        match action {
            "" => errors.required(&at, &format!("valid values: {actions:?}").replace(',', "")),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                errors.invalid(&at, action, "requires the backoffLimitPerIndex to be set");
            }
            other => errors.one_of(&at, other, &actions),
        }
        if rule.has("onExitCodes") {
            exit_codes(errors, spec, rule.at("onExitCodes"), &path.child("onExitCodes"));
        }
        let conditions = rule.list("onPodConditions");
        for (j, pattern) in conditions.iter().enumerate() {
            let at = path.child("onPodConditions").index(j);
            let (ty, status) = (pattern.text("type"), pattern.text("status"));
            errors.messages(&at.child("type"), ty, names::qualified_name(ty));
            let all = ["False", "True", "Unknown"];
            match status {
                "" => errors.required(&at.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
                other => errors.one_of(&at.child("status"), other, &all),
            }
        }
        match (rule.has("onExitCodes"), conditions.is_empty()) {
            (true, false) => {
                bare(errors, &path, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, true) => {
                bare(errors, &path, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

fn exit_codes(errors: &mut ErrorList, spec: &Value, rule: &Value, path: &Path) {
    let (operator, at) = (rule.text("operator"), path.child("operator"));
    match operator {
        "" => errors.required(&at, "valid values: [\"In\" \"NotIn\"]"),
        other => errors.one_of(&at, other, &["In", "NotIn"]),
    }
    if let Some(name) = rule.at("containerName").as_str() {
        let pod = spec.at("template.spec");
        let mut all = pod.list("containers").iter().chain(pod.list("initContainers"));
        if !all.any(|c| c.text("name") == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
    }
    let (values, at) = (rule.list("values"), path.child("values"));
    if values.is_empty() {
        errors.invalid(&at, rule.at("values").clone(), "at least one value is required");
    } else if values.len() > 255 {
        errors.push(FieldError::too_many(&at, values.len(), 255));
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    for (i, n) in numbers.iter().enumerate() {
        if operator == "In" && *n == 0 {
            errors.invalid(&at.index(i), 0, "must not be 0 for the In operator");
        }
        if numbers[..i].contains(n) {
            errors.duplicate(&at.index(i), *n);
        }
    }
    if !numbers.is_sorted() {
        errors.invalid(&at, rule.at("values").clone(), "must be ordered");
    }
}

fn success_policy(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = spec.list("successPolicy.rules");
    let completions = spec.int("completions");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(path, detail);
    }
    if rules.len() > 20 {
        errors.push(FieldError::too_many(path, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let (count, list) = (rule.at("succeededCount").as_i64(), rule.at("succeededIndexes").as_str());
        if count.is_none() && list.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&path, detail);
        }
        let mut total = 0;
        if let Some(list) = list {
            match index_list(list, completions) {
                Ok(n) => total = n,
                Err(why) => {
                    let detail = format!("error parsing succeededIndexes: {why}");
                    errors.invalid(&path.child("succeededIndexes"), list, detail);
                }
            }
        }
        let Some(count) = count else { continue };
        let at = path.child("succeededCount");
        errors.non_negative(&at, count);
        if count > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&at, count, detail);
        }
        if list.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&at, count, detail);
        }
    }
}

/// Counts the indexes in a text such as `1,3-5`.
pub(super) fn index_list(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (-1, 0);
    if text.is_empty() {
        return Ok(0);
    }
    for part in text.split(',') {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.len() > 2 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let mut numbers = Vec::new();
        for end in &ends {
            let n: i64 =
                end.parse().map_err(|_| format!("cannot convert string to integer for index: {end:?}"))?;
            if n >= completions {
                return Err(format!("too large index: {end:?}"));
            }
            numbers.push(n);
        }
        let (low, high) = (numbers[0], *numbers.last().expect("split gives at least one part"));
        if numbers.len() == 2 && low >= high {
            return Err(format!("non-increasing order, previous: {low}, current: {high}"));
        }
        if last >= low {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        total += high - low + 1;
        last = high;
    }
    Ok(total)
}

/// An update of a job.
pub fn job_update(new: &Value, old: &Value) -> ErrorList {
    // Upstream looks at the whole job and then at the spec once more; one of each is enough.
    let mut errors = job(new);
    let path = Path::new("spec");
    let (now, was) = (new.at("spec"), old.at("spec"));
    let at = path.child("completions");
    if now.text("completionMode") != "Indexed" {
        errors.immutable(&at, now.at("completions"), was.at("completions"));
    } else if now.at("completions") != was.at("completions")
        && now.has("completions")
        && now.int("completions") != now.int("parallelism")
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&at, now.at("completions").clone(), detail);
    }
    errors.immutable(&path.child("selector"), now.at("selector"), was.at("selector"));
    template_update(&mut errors, new, old, &path);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        errors.immutable(&path.child(field), now.at(field), was.at(field));
    }
    errors
}

/// A suspended job may still be moved and resized: scheduling directives and resources of its pods.
fn template_update(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (now, mut was) = (new.at("spec.template"), old.at("spec.template").clone());
    let suspended = old.flag("spec.suspend");
    let never_started = !old.has("status.startTime");
    let marked = old
        .list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let stopped = suspended && (never_started || marked) && old.int("status.active") == 0;
    if stopped {
        for field in [
            "spec.affinity.nodeAffinity",
            "spec.nodeSelector",
            "spec.tolerations",
            "spec.schedulingGates",
            "metadata.annotations",
            "metadata.labels",
        ] {
            match now.at(field) {
                Value::Null => drop(was.unset(field)),
                value => was.set(field, value.clone()),
            }
        }
        for list in ["spec.containers", "spec.initContainers"] {
            let wanted = now.list(list);
            for (c, now) in was.list_mut(list).iter_mut().zip(wanted) {
                if c.text("name") == now.text("name") {
                    c.set("resources", now.at("resources").clone());
                }
            }
        }
    }
    if differs(Some(now), Some(&was)) {
        errors.invalid(&path.child("template"), now.clone(), super::IMMUTABLE);
    }
}

/// A cron job; `old` on update.
pub fn cron_job(c: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (c.at("spec"), Path::new("spec"));
    match spec.text("schedule") {
        "" => errors.required(&path.child("schedule"), ""),
        schedule => {
            let at = path.child("schedule");
            let had_zone = old.is_some_and(|o| o.text("spec.schedule").contains("TZ"));
            if let Err(why) = schedule_text(schedule) {
                errors.invalid(&at, schedule, why);
            }
            if schedule.contains("TZ") && !had_zone {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid(&at, schedule, detail);
            } else if schedule.contains("TZ") && spec.has("timeZone") {
                let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
                errors.invalid(&at, schedule, detail);
            }
        }
    }
    errors.non_negative(&path.child("startingDeadlineSeconds"), spec.int("startingDeadlineSeconds"));
    if old.is_none_or(|o| o.at("spec.timeZone") != spec.at("timeZone")) {
        time_zone(&mut errors, spec.at("timeZone"), &path.child("timeZone"));
    }
    let policy = spec.text("concurrencyPolicy");
    errors.required_one_of(&path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    let (job, at) = (spec.at("jobTemplate.spec"), path.child("jobTemplate.spec"));
    job_spec(&mut errors, job, &at);
    if job.has("selector") {
        let detail = "`selector` will be auto-generated";
        errors.invalid(&at.child("selector"), job.at("selector").clone(), detail);
    }
    if job.flag("manualSelector") {
        let at = at.child("manualSelector");
        errors.push(FieldError::not_supported(&at, true, &["nil", "false"]));
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.non_negative(&path.child(field), spec.int(field));
    }
    let name = c.text("metadata.name");
    if old.is_none() && name.len() > 52 {
        let at = Path::new("metadata").child("name");
        errors.invalid(&at, name, "must be no more than 52 characters");
    }
    errors
}

fn time_zone(errors: &mut ErrorList, zone: &Value, path: &Path) {
    let Some(zone) = zone.as_str() else { return };
    if zone.is_empty() {
        errors.invalid(path, "", "timeZone must be nil or non-empty string");
        return;
    }
    let part_ok = |p: &str| {
        (1..=14).contains(&p.len())
            && p != "."
            && p != ".."
            && !p.starts_with('-')
            && p.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
    };
    if !zone.split('/').all(part_ok) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
    let known = zone == "Local" || jiff::tz::TimeZone::get(zone).is_ok_and(|z| z.iana_name() == Some(zone));
    if !known {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

/// (name, low, high, names of values)
type CronField = (&'static str, u32, u32, &'static [&'static str]);

const CRON: [CronField; 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Checks a cron schedule with the texts of the parser that upstream uses (robfig/cron v3).
fn schedule_text(schedule: &str) -> Result<(), String> {
    let mut text = schedule;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, rest) =
            text.split_once(' ').ok_or_else(|| format!("provided bad location {text}: unknown"))?;
        let name = zone.split_once('=').map_or("", |z| z.1);
        jiff::tz::TimeZone::get(name)
            .map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?;
        text = rest.trim();
    }
    if let Some(name) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        if known.contains(&name) || name.starts_with("every ") {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        let shown: Vec<&str> = fields.clone();
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), shown.join(" ")));
    }
    for (field, rule) in fields.iter().zip(CRON) {
        for part in field.split(',').filter(|p| !p.is_empty()) {
            cron_range(part, rule)?;
        }
    }
    Ok(())
}

fn cron_range(part: &str, (_, low, high, named): CronField) -> Result<(), String> {
    let (range, step) = match part.split('/').collect::<Vec<_>>()[..] {
        [range] => (range, None),
        [range, step] => (range, Some(step)),
        _ => return Err(format!("too many slashes: {part}")),
    };
    let number = |text: &str| -> Result<u32, String> {
        if let Some(i) = named.iter().position(|n| n.eq_ignore_ascii_case(text)) {
            return Ok(u32::try_from(i).unwrap_or(0) + low);
        }
        let n: i64 = text.parse().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })?;
        u32::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}"))
    };
    let (start, mut end) = match range.split('-').collect::<Vec<_>>()[..] {
        ["*" | "?"] => (low, high),
        [one] => {
            let n = number(one)?;
            (n, n)
        }
        [a, b] => (number(a)?, number(b)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            if !range.contains(['-', '*', '?']) {
                end = high;
            }
            number(step)?
        }
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-23 1,15 jan-mar MON", "@hourly", "@every 1m", "0 0 1 1 ?"] {
            assert_eq!(schedule_text(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(schedule_text(bad), Err(why.to_string()));
        }
    }

    #[test]
    fn index_lists() {
        assert_eq!(index_list("1,3-5", 10), Ok(4));
        assert!(index_list("5,3", 10).is_err());
        assert!(index_list("1-2-3", 10).is_err());
        assert!(index_list("10", 10).is_err());
    }
}

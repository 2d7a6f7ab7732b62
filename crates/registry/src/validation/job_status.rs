//! A job's status: another controller may run a job (`managedBy`), so what a status may become is
//! checked. A rule applies when what it is about changes, so a status that was already wrong does not
//! stop other writes.

use serde_json::Value;

use super::batch::{bare, index_list};
use super::{ErrorList, Path, Report};
use crate::tree::Tree;

/// Both versions of a job, and what differs.
struct Change<'a> {
    new: &'a Value,
    old: &'a Value,
    path: Path,
}

fn is(job: &Value, ty: &str) -> bool {
    job.list("status.conditions").iter().any(|c| c.text("type") == ty && c.text("status") == "True")
}

fn finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

impl Change<'_> {
    /// Whether any of the status fields changed.
    fn field(&self, fields: &[&str]) -> bool {
        fields.iter().any(|f| self.new.at("status").at(f) != self.old.at("status").at(f))
    }

    /// Whether any of the conditions changed.
    fn condition(&self, types: &[&str]) -> bool {
        types.iter().any(|ty| is(self.new, ty) != is(self.old, ty))
    }

    fn finish(&self) -> bool {
        finished(self.new) != finished(self.old)
    }

    fn at(&self, field: &str) -> Path {
        self.path.child(field)
    }

    fn counters(&self, errors: &mut ErrorList) {
        let status = self.new.at("status");
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            errors.non_negative(&self.at(field), status.int(field));
        }
        let mut seen: Vec<&str> = Vec::new();
        for list in ["succeeded", "failed"] {
            let path = self.at("uncountedTerminatedPods").child(list);
            let uids = status.at("uncountedTerminatedPods").list(list);
            for (i, uid) in uids.iter().filter_map(Value::as_str).enumerate() {
                if uid.is_empty() {
                    errors.invalid(&path.index(i), uid, "must not be empty");
                } else if seen.contains(&uid) {
                    errors.duplicate(&path.index(i), uid);
                } else {
                    seen.push(uid);
                }
            }
        }
    }

    fn conditions(&self, errors: &mut ErrorList) {
        let new = |ty: &str| is(self.new, ty);
        let (complete, failed, target, met) =
            (new("Complete"), new("Failed"), new("FailureTarget"), new("SuccessCriteriaMet"));
        let policy = self.new.has("spec.successPolicy");
        let wrong = [
            (
                complete && failed && self.condition(&["Complete", "Failed"]),
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                complete && target && self.condition(&["Complete", "FailureTarget"]),
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                failed && !target && (self.condition(&["Failed"]) || self.field(&["failedIndexes"])),
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ),
            (
                complete && !met && self.condition(&["Complete", "SuccessCriteriaMet"]),
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
            (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
            (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
            (
                policy && !met && complete,
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ];
        for (_, why) in wrong.into_iter().filter(|(wrong, _)| *wrong) {
            bare(errors, &self.at("conditions"), why);
        }
    }

    fn times(&self, errors: &mut ErrorList) {
        let status = self.new.at("status");
        let (complete, at) = (is(self.new, "Complete"), self.at("completionTime"));
        let (start, end) = (status.at("startTime"), status.at("completionTime"));
        if self.condition(&["Complete"]) || self.field(&["completionTime"]) {
            if !complete && !end.is_null() {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                errors.invalid(&at, end.clone(), detail);
            }
            if complete && end.is_null() {
                errors.required(&at, "completionTime is required for Complete jobs");
            }
        }
        let parse = |time: &Value| time.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let reversed = matches!((parse(start), parse(end)), (Some(start), Some(end)) if end < start);
        if reversed && self.field(&["startTime", "completionTime"]) {
            errors.invalid(&at, end.clone(), "must be equal to or after `startTime`");
        }
    }

    fn ending(&self, errors: &mut ErrorList) {
        let status = self.new.at("status");
        let changed = |fields: &[&str]| self.finish() || self.field(fields);
        if finished(self.new) {
            if status.int("active") > 0 && changed(&["active"]) {
                let detail = "active>0 is invalid for finished job";
                errors.invalid(&self.at("active"), status.int("active"), detail);
            }
            let idle = self.new.flag("spec.suspend") && self.new.at("spec.completions").as_i64() == Some(0);
            if !status.has("startTime") && changed(&["startTime"]) && !idle {
                errors.required(&self.at("startTime"), "startTime is required for finished job");
            }
            let uncounted = status.at("uncountedTerminatedPods");
            let some = !uncounted.list("failed").is_empty() || !uncounted.list("succeeded").is_empty();
            if some && changed(&["uncountedTerminatedPods"]) {
                let detail = "must be empty for finished job";
                errors.invalid(&self.at("uncountedTerminatedPods"), uncounted.clone(), detail);
            }
            if status.int("terminating") > 0 && changed(&["terminating"]) {
                let detail = "terminating>0 is invalid for finished job";
                errors.invalid(&self.at("terminating"), status.int("terminating"), detail);
            }
        }
        if status.has("ready")
            && status.int("ready") > status.int("active")
            && self.field(&["ready", "active"])
        {
            let detail = "cannot set more ready pods than active";
            errors.invalid(&self.at("ready"), status.int("ready"), detail);
        }
    }

    fn indexes(&self, errors: &mut ErrorList) {
        let (spec, status) = (self.new.at("spec"), self.new.at("status"));
        let completions = spec.at("completions").as_i64();
        let (done, failed) = (status.text("completedIndexes"), status.at("failedIndexes").as_str());
        let per_index = spec.has("backoffLimitPerIndex");
        let mut check = |field: &str, text: &str| {
            let Some(completions) = completions.filter(|_| !text.is_empty()) else { return };
            if let Err(why) = index_list(text, completions) {
                errors.invalid(&self.at(field), text, format!("error parsing {field}: {why}"));
            }
        };
        if self.field(&["completedIndexes"]) {
            check("completedIndexes", done);
        }
        if let Some(failed) = failed.filter(|_| per_index && self.field(&["failedIndexes"])) {
            check("failedIndexes", failed);
        }
        let indexed = spec.text("completionMode") == "Indexed";
        if self.field(&["completedIndexes"]) && !done.is_empty() && !indexed {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(&self.at("completedIndexes"), done, detail);
        }
        let Some(failed) = failed else { return };
        if self.field(&["failedIndexes"]) && !per_index {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.invalid(&self.at("failedIndexes"), failed, detail);
        }
        if self.field(&["failedIndexes", "completedIndexes"])
            && completions.is_some()
            && let Some(index) = overlap(done, failed)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&self.at("failedIndexes"), failed, detail);
        }
    }

    fn transitions(&self, errors: &mut ErrorList) {
        let (new, old) = (self.new, self.old);
        for ty in ["Failed", "Complete", "FailureTarget"] {
            if is(old, ty) && !is(new, ty) {
                bare(
                    errors,
                    &self.at("conditions"),
                    &format!("cannot disable the terminal {ty}=True condition"),
                );
            }
        }
        let (status, was) = (new.at("status"), old.at("status"));
        // An indexed job whose completions equal its parallelism can shrink.
        let shrinks = new.text("spec.completionMode") == "Indexed"
            && new.at("spec.completions") == new.at("spec.parallelism");
        for (field, allowed) in [("failed", false), ("succeeded", shrinks)] {
            if status.int(field) < was.int(field) && !allowed {
                let detail = format!("cannot decrease the {field} counter");
                errors.invalid(&self.at(field), status.int(field), detail);
            }
        }
        let (end, ended) = (status.at("completionTime"), was.at("completionTime"));
        if !end.is_null() && !ended.is_null() && end != ended {
            errors.invalid(&self.at("completionTime"), end.clone(), super::IMMUTABLE);
        }
        let no_longer = |job: &Value| {
            let mut all = job.list("status.conditions").iter();
            all.any(|c| c.text("type") == "Suspended" && c.text("status") == "False")
        };
        let resumes = is(old, "Suspended") && no_longer(new);
        let moved = was.has("startTime") && self.field(&["startTime"]);
        if moved && !resumes && !new.flag("spec.suspend") {
            let detail = "field is immutable for unsuspended job once set";
            errors.invalid(&self.at("startTime"), status.at("startTime").clone(), detail);
        }
        let (met, was_met) = (is(new, "SuccessCriteriaMet"), is(old, "SuccessCriteriaMet"));
        if was_met && !met {
            bare(errors, &self.at("conditions"), "cannot disable the SuccessCriteriaMet=True condition");
        }
        if is(old, "Complete") && !was_met && met {
            let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            bare(errors, &self.at("conditions"), why);
        }
    }
}

/// The first index that is in both texts such as `1,3-5`.
fn overlap(a: &str, b: &str) -> Option<i64> {
    let ranges = |text: &str| -> Vec<(i64, i64)> {
        let range = |part: &str| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            Some((low.parse().ok()?, high.parse().ok()?))
        };
        text.split(',').filter_map(range).collect()
    };
    let other = ranges(b);
    ranges(a).into_iter().find_map(|(low, high)| {
        let hit = other.iter().find(|(l, h)| low <= *h && *l <= high)?;
        Some(low.max(hit.0))
    })
}

/// A job's `/status`.
pub fn job_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let change = Change { new, old, path: Path::new("status") };
    change.counters(&mut errors);
    change.conditions(&mut errors);
    change.times(&mut errors);
    change.ending(&mut errors);
    change.indexes(&mut errors);
    change.transitions(&mut errors);
    errors
}

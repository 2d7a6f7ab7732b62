//! Sets of completion indexes in their text form: `0,2-4`.

use std::collections::BTreeSet;

use api::k8s::api::core::v1::Pod;
use client::Meta;

/// Label and annotation of a pod that carry its index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Reads a set; what is not a number below `limit` is left out.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (from.parse::<i32>(), to.parse::<i32>()) else { continue };
        set.extend(from.max(0)..=to.min(limit - 1));
    }
    set
}

/// Writes a set; runs of two or more are joined, pairs by a comma.
pub fn render(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    let close = |run: Option<(i32, i32)>, parts: &mut Vec<String>| match run {
        None => {}
        Some((from, to)) if from == to => parts.push(from.to_string()),
        Some((from, to)) if from + 1 == to => parts.push(format!("{from},{to}")),
        Some((from, to)) => parts.push(format!("{from}-{to}")),
    };
    for index in set {
        run = match run {
            Some((from, to)) if to + 1 == *index => Some((from, *index)),
            other => {
                close(other, &mut parts);
                Some((*index, *index))
            }
        };
    }
    close(run, &mut parts);
    parts.join(",")
}

/// A pod's index.
pub fn of(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_round_trip() {
        for text in ["", "0", "0,1", "1-3", "0,2-4,7", "1,3,5,6,8-10"] {
            assert_eq!(render(&parse(text, 100)), text);
        }
        assert_eq!(render(&parse("0-9", 4)), "0-3");
    }
}

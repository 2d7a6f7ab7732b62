//! Cases written by hand: `requests.txt`, one a line. Must not know what they mean.
//!
//! `METHOD[(media)][[Header: value]] PATH [BODY]`; `\n` in a body is a line break; a body that begins with `@` is a
//! merge patch of the last object. `# name` begins a section.

use crate::corpus::{Body, Case, Section};

/// Short names of media types.
const MEDIA: &[(&str, &str)] = &[
    ("merge", "application/merge-patch+json"),
    ("json", "application/json-patch+json"),
    ("strategic", "application/strategic-merge-patch+json"),
    ("apply", "application/apply-patch+yaml"),
    ("yaml", "application/yaml"),
    ("protobuf", "application/vnd.kubernetes.protobuf"),
    ("text", "text/plain"),
];
/// As much of a line is part of the case's name.
const NAME: usize = 240;

/// The sections of the file.
pub fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    let mut name = "";
    for line in include_str!("requests.txt").lines().filter(|line| !line.trim().is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            name = title;
            sections.push(Section { always: false, cases: Vec::new() });
            continue;
        }
        let section = sections.last_mut().expect("requests.txt: a section first");
        section.cases.push(case(name, line));
    }
    sections
}

fn case(section: &str, line: &str) -> Case {
    let short: String = line.chars().take(NAME).collect();
    let mut rest = line;
    let mut headers = Vec::new();
    let end = rest.find(['(', '[', ' ']).unwrap_or(rest.len());
    let method = &rest[..end];
    rest = &rest[end..];
    if let Some((media, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        let full = MEDIA.iter().find(|(short, _)| *short == media).map_or(media, |(_, full)| full);
        headers.push(("content-type".to_owned(), full.to_owned()));
        rest = after;
    }
    while let Some((header, after)) =
        rest.strip_prefix('[').and_then(|rest| rest.split_once("] ").or(rest.split_once("][")))
    {
        let (name, value) = header.split_once(": ").expect("requests.txt: [Header: value]");
        headers.push((name.to_lowercase(), value.to_owned()));
        let more = rest[header.len() + 1..].starts_with("][");
        rest = if more { &rest[header.len() + 2..] } else { after };
    }
    let rest = rest.trim_start();
    let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
    let body = match body.strip_prefix('@') {
        Some(edit) => Body::Last(serde_json::from_str(edit).expect("requests.txt: @ and a merge patch")),
        None if body.is_empty() => Body::None,
        None => Body::Text(body.replace("\\n", "\n")),
    };
    Case {
        id: format!("{section}: {short}"),
        method: method.into(),
        path: path.into(),
        headers,
        body,
        may_fail: false,
    }
}

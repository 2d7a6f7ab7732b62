//! The fuzz targets: one program for all, `NAVARCH_FUZZ` names the one that runs. libFuzzer has the main loop;
//! `cargo xtask fuzz` has the rest.
#![no_main]

mod command_line;
mod documents;
mod expressions;
mod node;
mod patches;
mod server;
mod streams;
mod texts;

use std::path::PathBuf;
use std::sync::OnceLock;

use machinery::schema::sample::{Dice, Fill, resource};
use machinery::schema::{TypeFacts, facts};
use serde_json::Value;

/// One target.
pub struct Target {
    /// As `NAVARCH_FUZZ` names it.
    pub name: &'static str,
    /// Runs one input; a panic is a finding.
    pub run: fn(&[u8]),
    /// The corpus to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that inputs are made of.
    pub words: fn() -> Vec<String>,
}

/// The parts of an input end with this byte, which no text holds.
const END: u8 = 0xff;

static TARGETS: &[&[Target]] = &[
    documents::TARGETS,
    patches::TARGETS,
    expressions::TARGETS,
    texts::TARGETS,
    streams::TARGETS,
    command_line::TARGETS,
    server::TARGETS,
    node::TARGETS,
];
static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

/// Chooses the target; lays its seeds and words down in the directory that `NAVARCH_FUZZ_DIR` names.
fn init() {
    let name = std::env::var("NAVARCH_FUZZ").unwrap_or_default();
    let all = || TARGETS.iter().copied().flatten();
    let Some(target) = all().find(|target| target.name == name) else {
        all().for_each(|target| println!("{}", target.name));
        std::process::exit(i32::from(name != "list"));
    };
    if let Some(dir) = std::env::var_os("NAVARCH_FUZZ_DIR").map(PathBuf::from) {
        std::fs::create_dir_all(dir.join("seeds")).expect("a directory for seeds");
        for (at, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seeds/{at}")), seed).expect("a seed");
        }
        let quoted = |word: &String| {
            let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("\"{bytes}\"\n")
        };
        // libFuzzer refuses an empty file.
        let words: String = (target.words)().iter().map(quoted).collect();
        std::fs::write(dir.join("words"), format!("# {name}\n{words}")).expect("words");
    }
    CHOSEN.get_or_init(|| target);
}

libfuzzer_sys::fuzz_target!(init: init(), |data: &[u8]| {
    (CHOSEN.get().expect("chosen before the first input").run)(data)
});

/// The types of objects, in table order.
pub fn kinds() -> &'static [&'static TypeFacts] {
    static KINDS: OnceLock<Vec<&'static TypeFacts>> = OnceLock::new();
    KINDS.get_or_init(|| {
        facts().types().iter().filter(|facts| facts.is_object() && !facts.gvks.is_empty()).collect()
    })
}

/// The kind that an input's first two bytes choose, and the rest.
pub fn kind(data: &[u8]) -> Option<(&'static TypeFacts, &[u8])> {
    let (&[high, low], rest) = data.split_first_chunk::<2>()?;
    Some((kinds()[usize::from(u16::from_be_bytes([high, low])) % kinds().len()], rest))
}

/// The bytes that choose a kind.
pub fn choose(wanted: &TypeFacts) -> [u8; 2] {
    let at = kinds().iter().position(|facts| facts.name == wanted.name).expect("a kind of the table");
    u16::try_from(at).expect("a few hundred kinds").to_be_bytes()
}

/// An input's parts; missing ones are empty.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == END);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// One input of several parts.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&END)
}

/// Kinds whose objects seeds are made of: the ones with most structure.
pub const RICH: &[&str] = &[
    "Pod",
    "Service",
    "Deployment",
    "ConfigMap",
    "Secret",
    "CustomResourceDefinition",
    "NetworkPolicy",
    "Ingress",
    "Node",
    "PersistentVolume",
    "HorizontalPodAutoscaler",
    "ValidatingAdmissionPolicy",
    "ResourceClaim",
    "ClusterRole",
    "EndpointSlice",
    "Job",
    "Event",
];

/// Generated objects of the rich kinds; some fit into a few kilobytes.
pub fn samples(each: usize) -> Vec<(&'static TypeFacts, Value)> {
    let mut dice = Dice::new(1);
    let rich = |facts: &&TypeFacts| facts.gvks.first().is_some_and(|gvk| RICH.contains(&gvk.2));
    let mut out = Vec::new();
    for facts in kinds().iter().copied().filter(rich) {
        let made = std::iter::from_fn(|| resource(&mut dice, facts, Fill::Some)).take(each * 20);
        let small = made.filter(|value| value.to_string().len() < 6_000).take(each);
        out.extend(small.map(|value| (facts, value)));
    }
    out
}

/// The names of all fields: what documents are made of.
pub fn field_names() -> Vec<String> {
    let pods = kinds().iter().filter(|facts| facts.gvks.iter().any(|gvk| RICH[..4].contains(&gvk.2)));
    let mut names: Vec<String> = Vec::new();
    let mut open: Vec<&'static TypeFacts> = pods.copied().collect();
    let mut seen: Vec<&str> = Vec::new();
    while let Some(facts) = open.pop() {
        if seen.contains(&facts.name.as_str()) {
            continue;
        }
        seen.push(&facts.name);
        names.extend(facts.flat().iter().map(|flat| format!("\"{}\":", flat.field.json)));
        open.extend(facts.flat().iter().filter_map(|flat| flat.field.message()));
    }
    names.sort();
    names.dedup();
    names
}

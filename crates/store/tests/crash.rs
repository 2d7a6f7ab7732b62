//! Crashes: the process killed under load, and the power cut at every wait for the disk. Whatever was
//! acknowledged is there afterwards, and the revision never goes back.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{disk, pod, put, tiny};
use store::{DiskOp, DiskOptions, Expect, Store, Write};

const CHILD: &str = "STORE_CRASH_DIR";
const PRODUCERS: usize = 8;

/// Not a test by itself: the process that is killed. Each producer writes its own keys one after the
/// other, and says what it is about to do and what was acknowledged.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let seed: usize = std::env::var("STORE_CRASH_SEED").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = disk(tiny(Path::new(&dir))).await;
        let mut tasks = tokio::task::JoinSet::new();
        for producer in 0..PRODUCERS {
            tasks.spawn(produce(store.clone(), producer, seed));
        }
        tasks.join_all().await;
    });
}

async fn produce(store: Store, producer: usize, seed: usize) {
    for i in 0..1_000_000 {
        let name = format!("p{producer}-{}", i % 5);
        let text = format!("{seed}-{i}-{}", "y".repeat(i % 90));
        let (write, text) = match i % 7 {
            6 => (Write::delete(pod("x", &name), Expect::Any), "-".to_owned()),
            _ => (put(pod("x", &name), &text), text),
        };
        say(&format!("try {name} {text} 0\n"));
        match store.commit(write).await {
            Ok(done) => say(&format!("did {name} {text} {}\n", done.revision)),
            Err(_) => say(&format!("not {name} {text} 0\n")),
        }
    }
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// What may be found of a key: what was acknowledged last, or what was under way.
#[derive(Default, Debug)]
struct Known {
    acknowledged: Option<String>,
    under_way: Option<String>,
}

#[tokio::test]
async fn killed_at_any_instant_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut highest = 0;
    for round in 0..15u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, dir.path())
            .env("STORE_CRASH_SEED", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = out.lines();
        let mut left = 200 + round * 97;
        for line in lines.by_ref().map_while(Result::ok) {
            note(&line, &mut known, &mut highest);
            left -= 1;
            if left == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| note(&line, &mut known, &mut highest));
        let store = disk(tiny(dir.path())).await;
        assert!(store.revision() >= highest, "round {round}: {} < {highest}", store.revision());
        for (name, known) in &mut known {
            verify(&store, name, known, round);
        }
        store.close().await;
    }
    assert!(highest > 1000, "the test should write: {highest}");
}

fn note(line: &str, known: &mut HashMap<String, Known>, highest: &mut u64) {
    let words: Vec<&str> = line.split(' ').collect();
    let [what @ ("try" | "did" | "not"), name, text, revision] = words[..] else { return };
    let known = known.entry(name.to_owned()).or_default();
    let text = (text != "-").then(|| text.to_owned());
    match what {
        "try" => known.under_way = Some(text.unwrap_or_default()),
        "not" => known.under_way = None,
        _ => {
            known.acknowledged = text;
            known.under_way = None;
            *highest = (*highest).max(revision.parse().unwrap());
        }
    }
}

fn verify(store: &Store, name: &str, known: &mut Known, round: u64) {
    let found = store.get(&pod("x", name)).map(|object| {
        let text = String::from_utf8_lossy(&object.json).into_owned();
        text.split('"').nth(7).unwrap().to_owned()
    });
    let under_way = known.under_way.take();
    let under_way = under_way.map(|text| if text.is_empty() { None } else { Some(text) });
    let allowed = found == known.acknowledged || Some(&found) == under_way.as_ref();
    assert!(allowed, "round {round}, {name}: {found:?}, but {:?} or {under_way:?}", known.acknowledged);
    known.acknowledged = found;
}

/// Copies of the directory as a power cut might leave it, taken before each wait for the disk.
struct Cuts {
    dir: PathBuf,
    /// Bytes of each file that are on disk for sure.
    durable: BTreeMap<PathBuf, u64>,
    /// Copies with, for each, the bytes that are on disk for sure in its last file, and the state
    /// that had been acknowledged.
    images: Vec<(Files, u64, u64)>,
    acknowledged: u64,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Cuts {
    fn at(&mut self, op: DiskOp) {
        let files: Files = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        let Some((last, bytes)) = files.last_key_value() else { return };
        let (last, length) = (last.clone(), bytes.len() as u64);
        let sure = *self.durable.get(&last).unwrap_or(&64);
        self.images.push((files, sure, self.acknowledged));
        if op == DiskOp::Sync {
            self.durable.insert(last, length);
        }
    }
}

#[tokio::test]
async fn a_power_cut_at_any_wait_for_the_disk_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let cuts = Arc::new(Mutex::new(Cuts {
        dir: dir.path().into(),
        durable: BTreeMap::new(),
        images: Vec::new(),
        acknowledged: 0,
    }));
    let hook = Arc::clone(&cuts);
    let fault = move |op| {
        hook.lock().unwrap().at(op);
        Ok(())
    };
    let options = DiskOptions {
        segment_bytes: 1500,
        garbage_bytes: 2000,
        fault: Some(Arc::new(fault)),
        ..tiny(dir.path())
    };
    let store = disk(options.clone()).await;
    let mut states = vec![BTreeMap::new()];
    let mut state = BTreeMap::new();
    for i in 0..150usize {
        // Some objects live long, so that housekeeping has to carry them over.
        let name = if i % 7 == 0 { format!("old{}", i / 35) } else { format!("p{}", (i * i) % 6) };
        let write = match i % 5 {
            4 if state.contains_key(&name) => {
                state.remove(&name);
                Write::delete(pod("x", &name), Expect::Any)
            }
            _ => {
                let text = format!("{i}{}", "y".repeat(i % 120));
                state.insert(name.clone(), text.clone());
                put(pod("x", &name), &text)
            }
        };
        store.commit(write).await.unwrap();
        states.push(state.clone());
        cuts.lock().unwrap().acknowledged += 1;
    }
    store.close().await;
    let images = std::mem::take(&mut cuts.lock().unwrap().images);
    assert!(images.len() > 300, "{}", images.len());
    let target = tempfile::tempdir().unwrap();
    for (number, (files, sure, acknowledged)) in images.iter().enumerate() {
        let longest = files.last_key_value().unwrap().1.len();
        for cut in [longest, *sure as usize, (*sure as usize + longest) / 2, longest.saturating_sub(1)] {
            let cut = cut.clamp(*sure as usize, longest);
            lay(target.path(), files, cut, number % 2 == 0);
            let options = DiskOptions { fault: None, ..options.clone() };
            let store = disk(DiskOptions { dir: target.path().into(), ..options }).await;
            let revision = store.revision() as usize;
            // What was under way when the power went may be there or not, as a whole.
            let at = *acknowledged as usize;
            assert!(revision == at || revision == at + 1, "image {number}: {revision}, not {at}");
            let expect: Vec<_> = states[revision].clone().into_iter().collect();
            assert_eq!(found(&store), expect, "image {number} cut {cut}");
            store.close().await;
        }
    }
}

fn found(store: &Store) -> Vec<(String, String)> {
    let snapshot = store.snapshot("pods");
    let text = |json: &[u8]| String::from_utf8_lossy(json).split('"').nth(7).unwrap().to_owned();
    snapshot.range(None, None).map(|object| (object.key.name.to_string(), text(&object.json))).collect()
}

/// Lays out an image; the last file has `cut` bytes, or rubbish after them.
fn lay(dir: &Path, files: &Files, cut: usize, rubbish: bool) {
    for entry in fs::read_dir(dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let last = files.last_key_value().unwrap().0;
    for (path, bytes) in files {
        let mut bytes = bytes.clone();
        if path == last {
            let length = bytes.len();
            bytes.truncate(cut);
            if rubbish {
                bytes.resize(length, 0);
            }
        }
        fs::write(dir.join(path.file_name().unwrap()), bytes).unwrap();
    }
}

#[tokio::test]
async fn waiting_writers_are_told_when_the_store_closes() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(dir.path())).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..50 {
        let store = store.clone();
        tasks.spawn(async move { store.commit(put(pod("x", &format!("p{i}")), "1")).await.is_ok() });
    }
    store.close().await;
    let outcome = tokio::time::timeout(Duration::from_secs(10), tasks.join_all()).await.unwrap();
    let store = disk(tiny(dir.path())).await;
    assert_eq!(store.snapshot("pods").len(), outcome.into_iter().filter(|done| *done).count());
}

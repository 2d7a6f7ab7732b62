//! `navarch backup`, `restore` and `salvage`: a whole cluster in one file, and back.
//!
//! The file is a tar: the objects as the API server gives them, the cluster's keys, and a word on both. Must not
//! open the store of a running API server: a backup goes through its front door.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base::http::Body;
use client::{Client, Kubeconfig};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::{BackupSummary, DiskOptions};

use crate::error::CliError;
use crate::process::{ConnectArgs, Process};
use crate::{DataArgs, down, pki};

const ABOUT: &str = "about.json";
const OBJECTS: &str = "objects";
const KEYS: &str = "pki";
/// Keys and certificates are small; more is not one of ours.
const KEY_BYTES: u64 = 64 << 10;
const FORMAT: u64 = 1;

/// Flags of `navarch backup`.
#[derive(Clone, Debug, clap::Args)]
pub struct BackupArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The file to write; it holds every Secret and the cluster's keys.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Flags of `navarch restore`.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    data: DataArgs,
    /// A file of `navarch backup` or `navarch salvage`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Flags of `navarch salvage`.
#[derive(Clone, Debug, clap::Args)]
pub struct SalvageArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The file to write.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn failed(what: &str, path: &Path, detail: impl ToString, next: &str) -> CliError {
    CliError::Join {
        what: format!("{what} {}", path.display()),
        detail: detail.to_string(),
        next: next.to_owned(),
    }
}

/// A file beside another, for what is not yet whole.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// `navarch backup`.
pub async fn backup(args: &BackupArgs) -> Result<(), CliError> {
    let process = Process::new();
    let config: Kubeconfig = args.connect.config()?;
    let client = process.client_of(&config, "navarch-backup")?;
    let objects = beside(&args.file, ".objects");
    let taken = fetch(&client, &objects).await.and_then(|()| {
        let next = "the API server ended or the connection broke; take it again";
        store::check(&objects).map_err(|error| failed("taking", &args.file, error, next))
    });
    let keys = args.connect.data.data_dir.join(KEYS);
    let keys = (args.connect.kubeconfig.is_none() && keys.exists()).then_some(keys);
    let packed = taken.and_then(|summary| {
        let about = about(&summary, &process);
        pack(&args.file, &about, &objects, keys.as_deref()).map(|()| summary)
    });
    let _ = fs::remove_file(&objects);
    let summary = packed?;
    println!("{}: {} objects at revision {}", args.file.display(), summary.objects, summary.revision);
    if keys.is_none() {
        println!(
            "the cluster's keys are not in it: they lie on the control plane, in pki/ of its data directory"
        );
    }
    process.end().await;
    Ok(())
}

fn about(summary: &BackupSummary, process: &Process) -> Value {
    json!({
        "format": FORMAT, "revision": summary.revision, "objects": summary.objects,
        "taken": api::time::format(process.clock.now()), "navarch": env!("CARGO_PKG_VERSION"),
    })
}

/// Asks the API server for all objects and writes them to a file.
async fn fetch(client: &Client, path: &Path) -> Result<(), CliError> {
    let request = Request::get("/navarch/backup").body(base::http::empty()).expect("a valid request");
    let response = client.raw(request).await?;
    let status = response.status();
    let mut body: Body = response.into_body();
    if status != StatusCode::OK {
        let text =
            base::http::read(body, 64 << 10).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let next = "a backup needs the right to GET the URL /navarch/backup, and a Navarch API server";
        return Err(failed("taking", path, format!("HTTP {status}: {}", text.unwrap_or_default()), next));
    }
    let mut file = create(path)?;
    let write = |source| CliError::file("write", path, source);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed("taking", path, error, "take it again"))?;
        if let Ok(bytes) = frame.into_data() {
            file.write_all(&bytes).map_err(write)?;
        }
    }
    file.flush().map_err(write)
}

fn create(path: &Path) -> Result<fs::File, CliError> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.map_err(|source| CliError::file("create", path, source))
}

/// Writes the tar, whole or not at all.
fn pack(file: &Path, about: &Value, objects: &Path, keys: Option<&Path>) -> Result<(), CliError> {
    let draft = beside(file, ".new");
    let written = (|| -> std::io::Result<()> {
        let out = create(&draft).map_err(std::io::Error::other)?;
        let mut tar = tar::Builder::new(out);
        let text = about.to_string();
        append(&mut tar, ABOUT, text.len() as u64, text.as_bytes())?;
        let content = fs::File::open(objects)?;
        append(&mut tar, OBJECTS, content.metadata()?.len(), content)?;
        for path in keys.map(files).transpose()?.into_iter().flatten() {
            let content = fs::read(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            append(&mut tar, &format!("{KEYS}/{name}"), content.len() as u64, content.as_slice())?;
        }
        tar.into_inner()?.sync_all()
    })();
    written.map_err(|source| CliError::file("write", &draft, source))?;
    fs::rename(&draft, file).map_err(|source| CliError::file("create", file, source))
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, content)
}

/// Plain files of a directory, by name.
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && is_key_name(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The names that keys and certificates have; nothing that leads out of their directory.
fn is_key_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (name.ends_with(".crt") || name.ends_with(".key")) && name.bytes().all(plain) && !name.starts_with('.')
}

/// What a backup holds besides its objects.
struct Unpacked {
    about: Value,
    keys: Vec<(String, String)>,
}

/// Reads a backup; its objects go to the file `objects`.
fn unpack(file: &Path, objects: &Path) -> Result<Unpacked, CliError> {
    let read = |source| CliError::file("read", file, source);
    let mut archive = tar::Archive::new(fs::File::open(file).map_err(read)?);
    let mut unpacked = Unpacked { about: Value::Null, keys: Vec::new() };
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let name = entry.path().map_err(read)?.to_string_lossy().into_owned();
        if name == OBJECTS {
            std::io::copy(&mut entry, &mut create(objects)?).map_err(read)?;
            continue;
        }
        let mut text = String::new();
        entry.take(KEY_BYTES).read_to_string(&mut text).map_err(read)?;
        match name.strip_prefix("pki/") {
            Some(key) if is_key_name(key) => unpacked.keys.push((key.to_owned(), text)),
            _ if name == ABOUT => unpacked.about = serde_json::from_str(&text).unwrap_or_default(),
            _ => return Err(failed("reading", file, format!("{name:?} is not part of a backup"), NOT_OURS)),
        }
    }
    match unpacked.about["format"].as_u64() {
        Some(FORMAT) => Ok(unpacked),
        Some(_) => Err(failed("reading", file, "a newer Navarch wrote it", "restore it with that version")),
        None => Err(failed("reading", file, "it is not a backup", NOT_OURS)),
    }
}

const NOT_OURS: &str = "name a file that `navarch backup` or `navarch salvage` wrote";

/// `navarch restore`: fills a data directory that holds no cluster.
pub fn restore(args: &RestoreArgs) -> Result<(), CliError> {
    let dir = &args.data.data_dir;
    refuse_running(dir, "restoring into")?;
    pki::make_private_dir(dir)?;
    let objects = dir.join("restoring.objects");
    let restored = unpack(&args.file, &objects).and_then(|unpacked| {
        fits(&dir.join(KEYS), &unpacked.keys, dir)?;
        let next = "restore into a directory without a cluster (`navarch down` empties this one)";
        let filled = store::restore(&objects, DiskOptions::new(dir.join("store")));
        let summary = filled.map_err(|error| failed("restoring", &args.file, error, next))?;
        Ok((unpacked, summary))
    });
    let _ = fs::remove_file(&objects);
    let (unpacked, summary) = restored?;
    pki::make_private_dir(&dir.join(KEYS))?;
    for (name, text) in &unpacked.keys {
        let path = dir.join(KEYS).join(name);
        if name.ends_with(".key") { pki::write_private(&path, text) } else { pki::write(&path, text) }?;
    }
    println!(
        "{}: {} objects of {}",
        dir.display(),
        summary.objects,
        unpacked.about["taken"].as_str().unwrap_or("?")
    );
    if unpacked.keys.is_empty() && !dir.join("pki/ca.key").exists() {
        println!(
            "the backup holds no keys: new ones are made at the start, and nodes and tokens must join anew"
        );
    }
    println!("start it with: navarch up --data-dir {}", dir.display());
    Ok(())
}

/// Keys that are there must be those of the backup.
fn fits(keys: &Path, wanted: &[(String, String)], dir: &Path) -> Result<(), CliError> {
    let Some((_, ca)) = wanted.iter().find(|(name, _)| name == "ca.key") else { return Ok(()) };
    match fs::read_to_string(keys.join("ca.key")) {
        Ok(found) if found != *ca => {
            let next = "restore into another directory, or empty this one with `navarch down`";
            Err(failed("restoring into", dir, "it holds the keys of another cluster", next))
        }
        _ => Ok(()),
    }
}

fn refuse_running(dir: &Path, what: &str) -> Result<(), CliError> {
    if down::running(dir).is_some() {
        let next = format!("stop it first: navarch down --keep-data --data-dir {}", dir.display());
        return Err(failed(what, dir, "a cluster runs from it", &next));
    }
    Ok(())
}

/// `navarch salvage`: makes a backup of what can be read of a store that does not open any more.
pub fn salvage(args: &SalvageArgs) -> Result<(), CliError> {
    let (dir, process) = (&args.data.data_dir, Process::new());
    refuse_running(dir, "reading")?;
    let objects = beside(&args.file, ".objects");
    let saved = store::salvage(&dir.join("store"), &objects).map_err(|error| {
        failed("reading", dir, error, "is it the data directory of a `navarch up` that has ended?")
    });
    let packed = saved.and_then(|saved| {
        let keys = Some(dir.join(KEYS)).filter(|keys| keys.exists());
        pack(&args.file, &about(&saved.backup, &process), &objects, keys.as_deref()).map(|()| saved)
    });
    let _ = fs::remove_file(&objects);
    let saved = packed?;
    println!(
        "{}: {} objects at revision {}",
        args.file.display(),
        saved.backup.objects,
        saved.backup.revision
    );
    for (path, offset, length) in &saved.lost {
        println!("lost: {length} bytes at {offset} of {}", path.display());
    }
    println!("go on with: navarch restore {} --data-dir NEW-DIRECTORY", args.file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("keys")).expect("made");
        fs::write(path("keys/ca.key"), "KEY").expect("written");
        fs::write(path("keys/notes.txt"), "not a key").expect("written");
        fs::write(path("objects"), "OBJECTS").expect("written");
        let about = json!({"format": FORMAT});
        pack(&path("b"), &about, &path("objects"), Some(&path("keys"))).expect("packed");
        let unpacked = unpack(&path("b"), &path("again")).expect("read");
        assert_eq!(unpacked.keys, [("ca.key".to_owned(), "KEY".to_owned())]);
        assert_eq!(fs::read_to_string(path("again")).expect("written"), "OBJECTS");
        assert!(fits(&path("keys"), &unpacked.keys, dir.path()).is_ok());
        fs::write(path("keys/ca.key"), "OTHER").expect("written");
        assert!(fits(&path("keys"), &unpacked.keys, dir.path()).is_err());
        fs::write(path("no"), "what is this?").expect("written");
        assert!(unpack(&path("no"), &path("again")).is_err());
    }

    #[test]
    fn names_stay_in_their_directory() {
        for (name, expect) in
            [("ca.crt", true), ("sa.key", true), ("../ca.key", false), ("a/b.key", false), (".key", false)]
        {
            assert_eq!(is_key_name(name), expect, "{name}");
        }
    }
}

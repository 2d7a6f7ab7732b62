//! `cp`: files into and out of containers, through `tar` in the container. Nothing that comes out of a container
//! is written outside the place the user named.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use client::streaming::{self, CommandOptions, Exit};
use tokio::sync::mpsc;

use crate::Error;
use crate::app::{App, Sink};
use crate::commands::{Command, Group};
use crate::describe::text;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::verbs::{exec, pods, run};

/// Pieces of an archive that wait.
const QUEUE: usize = 16;
/// A larger archive is refused: it is held in memory while it is checked.
const MAX_ARCHIVE_BYTES: usize = 2 << 30;

const FLAGS: &[Flag] = &[
    short("container", 'c', Takes::Text, "", "The container"),
    flag("no-preserve", Takes::Switch, "false", "Do not keep owners and permissions"),
    flag("retries", Takes::Number, "0", "Accepted for compatibility"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "cp",
    aliases: &[],
    group: Group::Troubleshooting,
    usage: "<file-spec-src> <file-spec-dest>",
    about: "Copy files and directories to and from containers",
    examples: "kubectl cp /tmp/foo_dir some-pod:/tmp/bar_dir\nkubectl cp some-namespace/some-pod:/tmp/foo /tmp/bar",
    flags: &[FLAGS],
    run: run!(copy),
}];

/// One side of a copy.
#[derive(Debug, PartialEq)]
struct Side {
    namespace: String,
    pod: String,
    file: String,
}

impl Side {
    fn parse(word: &str) -> Result<Side, Error> {
        let wrong = || Error::usage("filespec must match the canonical format: [[namespace/]pod:]file/path");
        let Some((place, file)) = word.split_once(':') else {
            return Ok(Side { namespace: String::new(), pod: String::new(), file: word.to_owned() });
        };
        let (namespace, pod) = place.split_once('/').unwrap_or(("", place));
        // `./a:b` is a file.
        if place.starts_with(['.', '/']) {
            return Ok(Side { namespace: String::new(), pod: String::new(), file: word.to_owned() });
        }
        if pod.is_empty() || pod.contains('/') {
            return Err(wrong());
        }
        Ok(Side { namespace: namespace.to_owned(), pod: pod.to_owned(), file: file.to_owned() })
    }
}

async fn copy(app: &App, args: &Args) -> Result<(), Error> {
    let [from, to] = args.words.as_slice() else {
        return Err(Error::usage("source and destination are required"));
    };
    let (from, to) = (Side::parse(from)?, Side::parse(to)?);
    if !from.pod.is_empty() && !to.pod.is_empty() {
        return Err(Error::usage("one of src or dest must be a local file specification"));
    }
    if from.file.is_empty() || to.file.is_empty() {
        return Err(Error::usage("filepath can not be empty"));
    }
    match (from.pod.is_empty(), to.pod.is_empty()) {
        (false, true) => download(app, args, &from, &to.file).await,
        (true, false) => upload(app, args, &from.file, &to).await,
        _ => Err(Error::usage("one of src or dest must be a remote file specification")),
    }
}

async fn options(app: &App, args: &Args, side: &Side, command: Vec<String>) -> Result<CommandOptions, Error> {
    let row = app.kinds().await?.resource("pods")?;
    let namespace = if side.namespace.is_empty() { app.namespace()? } else { side.namespace.clone() };
    let pod = crate::request::get(app.client()?, &row.resource, &namespace, &side.pod, "").await?;
    let container = pods::container(app, &pod, args.text("container"), false)?;
    Ok(CommandOptions {
        namespace,
        pod: side.pod.clone(),
        container: text(&container, "/name").to_owned(),
        command,
        stdout: true,
        stderr: true,
        ..CommandOptions::default()
    })
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

fn finished(exit: Exit) -> Result<(), Error> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => {
            Err(Error::Bare { message: format!("error: command terminated with exit code {code}"), code: 1 })
        }
        Exit::Error(error) => Err(client::ClientError::from(error).into()),
    }
}

/// Puts a file or directory into the container.
async fn upload(app: &App, args: &Args, local: &str, to: &Side) -> Result<(), Error> {
    let source = Path::new(local);
    if !source.exists() {
        return Err(Error::usage(format!("{local} doesn't exist in local filesystem")));
    }
    let is_dir = |path: &str| words(&["test", "-d", path]);
    let mut target = to.file.trim_end_matches('/').to_owned();
    if target.is_empty() {
        target = "/".to_owned();
    }
    // Into a directory that is there, the file keeps its name.
    let probe = options(app, args, to, is_dir(&target)).await?;
    let nowhere = || Sink::new(std::io::sink());
    let running = streaming::exec(&app.streams()?, &probe).await?;
    if exec::pump(running, None, false, &nowhere(), &nowhere()).await == Exit::Code(0) {
        let own = std::path::absolute(source).ok();
        let own = own.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        target = format!("{}/{own}", target.trim_end_matches('/'));
    }
    let (dir, name) = target.rsplit_once('/').unwrap_or(("", &target));
    let archive = pack(source, name).map_err(|error| Error::local(format!("reading {local}"), error))?;
    let mut command = words(&["tar", "-xmf", "-"]);
    if args.on("no-preserve") {
        command = words(&["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"]);
    }
    if target.starts_with('/') || !dir.is_empty() {
        command.extend(words(&["-C", if dir.is_empty() { "/" } else { dir }]));
    }
    let options = CommandOptions { stdin: true, command, ..probe };
    let running = streaming::exec(&app.streams()?, &options).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    app.tasks.spawn("archive", async move {
        let mut rest = Bytes::from(archive);
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(32 << 10));
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    finished(exec::pump(running, Some(receiver), false, &app.out, &app.err).await)
}

/// An archive of a file or directory under another name; links stay links.
fn pack(source: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    // Small programs named tar do not know files with holes.
    builder.sparse(false);
    if source.is_dir() {
        builder.append_dir_all(name, source)?;
    } else {
        let real = std::fs::canonicalize(source)?;
        builder.append_path_with_name(real, name)?;
    }
    builder.into_inner()
}

/// Takes a file or directory out of the container.
async fn download(app: &App, args: &Args, from: &Side, local: &str) -> Result<(), Error> {
    let options = options(app, args, from, words(&["tar", "cf", "-", &from.file])).await?;
    let running = streaming::exec(&app.streams()?, &options).await?;
    let held = Held::default();
    let exit = exec::pump(running, None, false, &Sink::new(held.clone()), &app.err).await;
    let archive = std::mem::take(&mut *held.0.lock());
    if archive.len() >= MAX_ARCHIVE_BYTES {
        return Err(Error::state(format!("the archive is larger than {MAX_ARCHIVE_BYTES} bytes")));
    }
    if archive.is_empty() {
        finished(exit)?;
        return Err(Error::state(format!("{} is not there", from.file)));
    }
    unpack(&app.err, &archive, &from.file, Path::new(local))?;
    finished(exit)
}

/// Bytes held in memory.
#[derive(Clone, Default)]
struct Held(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut held = self.0.lock();
        if held.len() < MAX_ARCHIVE_BYTES {
            held.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The place of an entry below `target`; `None` when it would be elsewhere.
fn place(entry: &Path, prefix: &str, target: &Path) -> Option<PathBuf> {
    let clean = |path: &Path| -> Option<PathBuf> {
        let mut parts = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return None,
            }
        }
        Some(parts)
    };
    // What the user asked for may climb; what the container sends may not.
    let asked: PathBuf = Path::new(prefix)
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(PathBuf::from(name)) } else { None })
        .collect();
    let entry = clean(entry)?;
    let below = entry.strip_prefix(&asked).ok()?;
    Some(if below.as_os_str().is_empty() { target.to_owned() } else { target.join(below) })
}

/// Writes an archive's files. Links and devices are left out, and so is everything behind a link.
pub fn unpack(warnings: &Sink, archive: &[u8], asked: &str, local: &Path) -> Result<(), Error> {
    let fail = |error| Error::local("tar contents corrupted", error);
    let mut target = local.to_owned();
    if local.is_dir()
        && let Some(name) = Path::new(asked).file_name()
    {
        target = local.join(name);
    }
    let mut reader = tar::Archive::new(archive);
    for entry in reader.entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let path = entry.path().map_err(fail)?.into_owned();
        let shown = path.display().to_string();
        let Some(to) = place(&path, asked, &target) else {
            warnings.line(&format!("warning: file {shown:?} is outside target destination, skipping"));
            continue;
        };
        let inside = to.strip_prefix(&target).unwrap_or(Path::new(""));
        if has_link(&target, inside) {
            warnings.line(&format!("warning: file {shown:?} is behind a link, skipping"));
            continue;
        }
        let written = |error| Error::local(format!("writing {}", to.display()), error);
        match entry.header().entry_type() {
            tar::EntryType::Directory => std::fs::create_dir_all(&to).map_err(written)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                if let Some(dir) = to.parent() {
                    std::fs::create_dir_all(dir).map_err(written)?;
                }
                let mut file = std::fs::File::create(&to).map_err(written)?;
                std::io::copy(&mut entry, &mut file).map_err(written)?;
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let link = entry
                    .link_name()
                    .ok()
                    .flatten()
                    .map(|link| link.display().to_string())
                    .unwrap_or_default();
                warnings
                    .line(&format!("warning: skipping symlink: {:?} -> {link:?}", to.display().to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// True when a part of the path below `target` is a link on this machine.
fn has_link(target: &Path, inside: &Path) -> bool {
    let mut at = target.to_owned();
    inside.components().any(|part| {
        at.push(part);
        std::fs::symlink_metadata(&at).is_ok_and(|meta| meta.file_type().is_symlink())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        let side = |namespace: &str, pod: &str, file: &str| Side {
            namespace: namespace.into(),
            pod: pod.into(),
            file: file.into(),
        };
        for (word, expect) in [
            ("/a/b", side("", "", "/a/b")),
            ("p:/x", side("", "p", "/x")),
            ("n/p:x", side("n", "p", "x")),
            ("./a:b", side("", "", "./a:b")),
        ] {
            assert_eq!(Side::parse(word).expect(word), expect);
        }
        assert!(Side::parse("a/b/c:x").is_err() && Side::parse(":x").is_err());
    }

    #[test]
    fn nothing_leaves_the_target() {
        let target = Path::new("/t");
        for (entry, expect) in [
            ("a/b", Some("/t")),
            ("a/b/c", Some("/t/c")),
            ("a/b/../../etc/passwd", None),
            ("../a/b", None),
            ("elsewhere", None),
        ] {
            assert_eq!(place(Path::new(entry), "/a/b", target), expect.map(PathBuf::from), "{entry}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("a link");
        assert!(has_link(dir.path(), Path::new("link/passwd")));
        assert!(!has_link(dir.path(), Path::new("other/file")));
    }

    #[test]
    fn archives_carry_names() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("d")).expect("a directory");
        std::fs::write(dir.path().join("d/f"), "x").expect("written");
        let archive = pack(&dir.path().join("d"), "new").expect("packed");
        let mut reader = tar::Archive::new(archive.as_slice());
        let names: Vec<String> = reader
            .entries()
            .expect("entries")
            .filter_map(|entry| Some(entry.ok()?.path().ok()?.display().to_string()))
            .collect();
        assert!(names.iter().any(|name| name == "new/f"), "{names:?}");
    }
}

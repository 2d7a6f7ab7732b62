//! Reading a container's log file: from a place near the end, on while the container runs, and across rotation.
//!
//! Must not follow a path out of the directory of logs.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Clock;
use base::http::BodySender;
use runtime::CriError;
use runtime::beneath::{BeneathError, Root};

use super::line::{self, Render};
use super::watch::Watch;
use super::{super::Node, Options};

/// How much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A record is far shorter (runtimes cut at 16 KiB); what is longer is left out.
const MAX_LINE_BYTES: usize = 1 << 20;
/// The runtime is asked at most so often whether the container still runs.
const RUNNING_CHECK: Duration = Duration::from_millis(500);

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The runtime knows no such container.
    #[error("unable to retrieve container logs for {id}")]
    Unknown {
        /// The container.
        id: String,
    },
    /// The runtime.
    #[error("unable to retrieve container logs for {id}: {source}")]
    Runtime {
        /// The container.
        id: String,
        /// The cause.
        source: CriError,
    },
    /// The file is not where logs are.
    #[error("log file {path:?} is not in {root:?}")]
    Outside {
        /// The file.
        path: PathBuf,
        /// Where logs are.
        root: PathBuf,
    },
    /// The file cannot be opened.
    #[error("failed to open log file: {0}")]
    Open(#[from] BeneathError),
    /// The file cannot be read.
    #[error("failed to read log file: {0}")]
    Read(#[from] std::io::Error),
    /// It is something else.
    #[error("unsupported log format in {path:?}")]
    Format {
        /// The file.
        path: PathBuf,
    },
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}

/// A log's place: the directory of all logs and the path beneath it.
#[derive(Clone, Debug)]
struct Place {
    root: PathBuf,
    path: PathBuf,
}

impl Place {
    fn open(&self) -> Result<std::fs::File, LogError> {
        let file = Root::open(&self.root)?.read(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a regular file").into());
        }
        Ok(file)
    }

    fn directory(&self) -> PathBuf {
        let full = self.root.join(&self.path);
        full.parent().map_or(full.clone(), Path::to_path_buf)
    }
}

/// Copies what is wanted of the log of container `id` to `out`; returns early when nobody reads.
pub async fn copy(
    node: &dyn Node,
    id: &str,
    options: &Options,
    clock: &Clock,
    out: &BodySender,
) -> Result<(), LogError> {
    let status = node.container(id).await;
    let status = status.map_err(|source| LogError::Runtime { id: id.to_owned(), source })?;
    let (path, _) = status.ok_or_else(|| LogError::Unknown { id: id.to_owned() })?;
    let root = node.log_root().to_owned();
    let relative = Path::new(&path).strip_prefix(&root).map(Path::to_path_buf);
    let relative = relative.map_err(|_| LogError::Outside { path: path.into(), root: root.clone() })?;
    let place = Place { root, path: relative };
    let (tail, opening) = (options.tail, place.clone());
    let file = blocking(move || {
        let mut file = opening.open()?;
        if let Some(lines) = tail {
            let start = tail_start(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(file)
    })
    .await?;
    let records = options.tail.filter(|_| !options.follow);
    let reader = Copying { render: Render::new(options), carry: Vec::new(), records, known: false, place };
    reader.run(file, node, id, options.follow, clock, out).await
}

struct Copying {
    render: Render,
    /// The beginning of a record whose end is not written yet.
    carry: Vec<u8>,
    /// Records that may still be shown.
    records: Option<u64>,
    /// The format is the one we know.
    known: bool,
    place: Place,
}

impl Copying {
    async fn run(
        mut self,
        mut file: std::fs::File,
        node: &dyn Node,
        id: &str,
        follow: bool,
        clock: &Clock,
        out: &BodySender,
    ) -> Result<(), LogError> {
        let mut watch = None;
        let (mut ended, mut asked) = (false, None::<Duration>);
        loop {
            let (more, back) = self.show_rest(file, !follow || ended, out).await?;
            file = back;
            if !more || !follow || ended {
                return Ok(());
            }
            let place = self.place.clone();
            let old = file.metadata()?.ino();
            let newer = blocking(move || {
                Ok(place.open().ok().filter(|new| new.metadata().is_ok_and(|new| new.ino() != old)))
            })
            .await?;
            if let Some(newer) = newer {
                // Nothing is written to the old file once the new one is there.
                (_, _) = self.show_rest(file, true, out).await?;
                self.carry.clear();
                file = newer;
                continue;
            }
            let Some(watch) = &watch else {
                // What was written before the watch began is read first.
                watch = Some(Watch::new(&self.place.directory()));
                continue;
            };
            let now = clock.monotonic();
            if asked.is_none_or(|asked| now.saturating_sub(asked) >= RUNNING_CHECK) {
                asked = Some(now);
                // A runtime that does not answer says nothing about its containers.
                if matches!(node.container(id).await, Ok(None | Some((_, false)))) {
                    ended = true;
                    continue;
                }
            }
            tokio::select! {
                () = watch.wait(clock) => {}
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Shows all that the file has; with `last` also a record without its end. False when nothing more is wanted.
    async fn show_rest(
        &mut self,
        mut file: std::fs::File,
        last: bool,
        out: &BodySender,
    ) -> Result<(bool, std::fs::File), LogError> {
        loop {
            let (bytes, back) = blocking(move || {
                let mut bytes = vec![0; CHUNK_BYTES];
                let size = file.read(&mut bytes)?;
                bytes.truncate(size);
                Ok((bytes, file))
            })
            .await?;
            file = back;
            let mut shown = Vec::new();
            let ended = bytes.is_empty();
            let more =
                if ended { !last || self.leftover(&mut shown)? } else { self.lines(&bytes, &mut shown)? };
            if !shown.is_empty() && out.send(Ok(shown.into())).await.is_err() {
                return Ok((false, file));
            }
            if ended || !more {
                return Ok((more, file));
            }
        }
    }

    /// Shows complete records, keeps the rest.
    fn lines(&mut self, mut bytes: &[u8], shown: &mut Vec<u8>) -> Result<bool, LogError> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            let carry = std::mem::take(&mut self.carry);
            let joined;
            let line = if carry.is_empty() {
                line
            } else {
                joined = [&carry, line].concat();
                &joined
            };
            if !self.line(line, shown)? {
                return Ok(false);
            }
        }
        if self.carry.len() + bytes.len() <= MAX_LINE_BYTES {
            self.carry.extend_from_slice(bytes);
        }
        Ok(true)
    }

    fn leftover(&mut self, shown: &mut Vec<u8>) -> Result<bool, LogError> {
        let carry = std::mem::take(&mut self.carry);
        if carry.is_empty() { Ok(true) } else { self.line(&carry, shown) }
    }

    fn line(&mut self, line: &[u8], shown: &mut Vec<u8>) -> Result<bool, LogError> {
        if self.records == Some(0) {
            return Ok(false);
        }
        let Some(record) = line::parse(line) else {
            // A damaged record is skipped; a file without any is not a log.
            return if self.known {
                Ok(true)
            } else {
                Err(LogError::Format { path: self.place.path.clone() })
            };
        };
        self.known = true;
        let more = self.render.push(&record, shown);
        self.records = self.records.map(|left| left - 1);
        Ok(more && self.records != Some(0))
    }
}

/// Where the last `lines` records begin. A record without its end does not count, as upstream.
fn tail_start(file: &mut std::fs::File, lines: u64) -> std::io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut ends = 0;
    let mut block = vec![0; CHUNK_BYTES];
    while right > 0 {
        let left = right.saturating_sub(CHUNK_BYTES as u64);
        let size = usize::try_from(right - left).unwrap_or(CHUNK_BYTES);
        file.seek(SeekFrom::Start(left))?;
        file.read_exact(&mut block[..size])?;
        for at in (0..size).rev().filter(|at| block[*at] == b'\n') {
            ends += 1;
            if ends > lines {
                return Ok(left + at as u64 + 1);
            }
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_lines() {
        let mut file = tempfile::tempfile().expect("a file");
        let lines: Vec<String> = (0..40_000).map(|n| format!("line {n}\n")).collect();
        file.write_all(lines.concat().as_bytes()).expect("written");
        let starts =
            |count: usize| lines[..lines.len() - count].iter().map(|line| line.len() as u64).sum::<u64>();
        for count in [0, 1, 2, 1000, 20_000, 40_000] {
            assert_eq!(tail_start(&mut file, count as u64).expect("read"), starts(count), "{count}");
        }
        assert_eq!(tail_start(&mut file, 50_000).expect("read"), 0);
        file.write_all(b"no end").expect("written");
        assert_eq!(tail_start(&mut file, 1).expect("read"), starts(1));
    }
}

//! The machine's log files under `/logs/`: a list of a directory, or a file's bytes. Nothing outside of the directory
//! is reached, whatever links lie in it.
//!
//! Must not know who asks: that is settled before.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use base::http::{BodySender, channel, full};
use base::tasks::blocking;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use runtime::beneath::{BeneathError, Kind, Root};

use super::{Body, text};
use crate::shared::Shared;
use crate::streaming::route::decode;

/// What is read at once of a file.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way to a reader.
const CHUNKS: usize = 4;
/// Entries of a directory that are listed at most.
const MAX_ENTRIES: usize = 100_000;
/// What decides whether a file is text.
const SNIFF_BYTES: usize = 512;

enum Found {
    /// Names, directories with a slash.
    Directory(Vec<String>),
    File(std::fs::File, u64, Vec<u8>),
    NotThere,
    Refused(String),
}

/// Answers for the path after `/logs`, as the URL has it.
pub async fn answer(shared: &Shared, path: &str) -> Response<Body> {
    let Some(root) = shared.config.system_logs.clone() else {
        return text(StatusCode::METHOD_NOT_ALLOWED, "System logs handler is disabled.\n");
    };
    let not_found = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let Some(wanted) = decode(&path.replace('+', "%2B")) else { return not_found() };
    let slash = wanted.ends_with('/');
    let relative = PathBuf::from(wanted.trim_matches('/'));
    let name =
        relative.file_name().map_or_else(|| "logs".to_owned(), |name| name.to_string_lossy().into_owned());
    match blocking(move || find(&root, &relative)).await {
        Found::Directory(_) if !slash => moved(&format!("{}/", escape_url(&name))),
        Found::Directory(names) => listing(&names),
        Found::File(..) if slash => moved(&format!("../{}", escape_url(&name))),
        Found::File(file, size, first) => send(shared, file, size, first),
        Found::NotThere => not_found(),
        Found::Refused(why) => text(StatusCode::FORBIDDEN, format!("{why}\n")),
    }
}

fn find(root: &Path, path: &Path) -> Found {
    let failed = |error: BeneathError| match &error {
        BeneathError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Found::NotThere,
        BeneathError::Shape { .. } => Found::NotThere,
        BeneathError::Io { .. } => Found::Refused(error.to_string()),
    };
    let root = match Root::open(root) {
        Ok(root) => root,
        Err(error) => return failed(error),
    };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match root.resolve(path) {
        Err(error) => failed(error),
        Ok((fd, Kind::Directory)) => {
            // The descriptor stands for the directory: no path is resolved again.
            list(&PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())))
                .map_or_else(|error| Found::Refused(error.to_string()), Found::Directory)
        }
        Ok((_, Kind::Other)) => match root.read(path) {
            Err(error) => failed(error),
            Ok(file) => open(file).unwrap_or_else(|error| Found::Refused(error.to_string())),
        },
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)?.take(MAX_ENTRIES) {
        let entry = entry?;
        let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names)
}

fn open(mut file: std::fs::File) -> std::io::Result<Found> {
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Ok(Found::Refused("not a regular file".to_owned()));
    }
    let mut first = vec![0; SNIFF_BYTES];
    let read = file.read(&mut first)?;
    first.truncate(read);
    Ok(Found::File(file, facts.len(), first))
}

fn moved(to: &str) -> Response<Body> {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

fn listing(names: &[String]) -> Response<Body> {
    let mut page =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        // A name with a colon must not read as a scheme.
        let colon = if name.contains(':') { "./" } else { "" };
        let _ = writeln!(page, "<a href=\"{colon}{}\">{}</a>", escape_url(name), escape_html(name));
    }
    page.push_str("</pre>\n");
    let mut response = Response::new(full(page));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

fn escape_url(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/:@$&+,;=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn escape_html(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Sends as many bytes as the file has now; a log that grows meanwhile is cut there.
fn send(shared: &Shared, file: std::fs::File, size: u64, first: Vec<u8>) -> Response<Body> {
    let kind = if is_text(&first) { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    let (sender, body) = channel(CHUNKS);
    shared.tasks.spawn("log file", copy(file, size, first, sender));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31))
}

async fn copy(mut file: std::fs::File, size: u64, first: Vec<u8>, sender: BodySender) {
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let mut chunk = first;
    loop {
        chunk.truncate(left);
        left -= chunk.len();
        // The reader may be gone; a file that was truncated ends the body early, which breaks the connection.
        if chunk.is_empty() || sender.send(Ok(Bytes::from(chunk))).await.is_err() || left == 0 {
            return;
        }
        let (rest, read) = blocking(move || {
            let mut bytes = vec![0; CHUNK_BYTES];
            let read = file.read(&mut bytes);
            bytes.truncate(*read.as_ref().unwrap_or(&0));
            (file, read.map(|_| bytes))
        })
        .await;
        file = rest;
        match read {
            Ok(bytes) => chunk = bytes,
            Err(error) => return drop(sender.send(Err(error.into())).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(root: &Path, path: &str, expect: &str) {
        let found = match find(root, Path::new(path)) {
            Found::Directory(names) => names.join(" "),
            Found::File(_, size, first) => format!("{size} {}", String::from_utf8_lossy(&first)),
            Found::NotThere => "absent".to_owned(),
            Found::Refused(_) => "refused".to_owned(),
        };
        assert_eq!(found, expect, "{path}");
    }

    #[test]
    fn only_what_lies_beneath_is_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, secret) = (dir.path().join("log"), dir.path().join("secret"));
        std::fs::create_dir_all(root.join("apt")).expect("made");
        std::fs::write(root.join("syslog"), "hello").expect("written");
        std::fs::write(root.join("apt/history"), "").expect("written");
        std::fs::write(&secret, "hidden").expect("written");
        std::os::unix::fs::symlink(&secret, root.join("absolute")).expect("linked");
        std::os::unix::fs::symlink("../secret", root.join("climbing")).expect("linked");
        std::os::unix::fs::symlink("syslog", root.join("inside")).expect("linked");
        check(&root, "", "absolute apt/ climbing inside syslog");
        check(&root, "apt", "history");
        check(&root, "syslog", "5 hello");
        check(&root, "inside", "5 hello");
        check(&root, "absent", "absent");
        check(&root, "../secret", "absent");
        check(&root, "absolute", "refused");
        check(&root, "climbing", "refused");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape_url("a b%?#\"é"), "a%20b%25%3F%23%22%C3%A9");
        assert_eq!(escape_html("<a href='x'>&"), "&lt;a href=&#39;x&#39;&gt;&amp;");
        assert!(is_text(b"line\n\tother \x1b[0m") && !is_text(b"\0"));
    }
}

//! The format of container logs (CRI): `2016-10-06T00:17:09.669794202Z stdout F text`; a line too long for one
//! record is cut into records tagged `P`, the last tagged `F`.
//!
//! Must not know files.

use jiff::Timestamp;

use super::Options;

/// Where a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// As written.
    pub time: &'a str,
    /// Where to.
    pub stream: Stream,
    /// What, with its end of line unless the line goes on.
    pub text: &'a [u8],
}

/// Reads a record with its end of line; `None` = it is not one.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let (tags, text) = (parts.next()?, parts.next()?);
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    // A cheap look that it is a time at all; only `since` needs its value.
    (time.len() >= 20 && time.as_bytes()[10] == b'T').then_some(Record { time, stream, text })
}

/// The time with nine digits of a second's fraction, so that all are of one length.
fn fixed(time: &str) -> String {
    let zone = time.find(['Z', '+']).or_else(|| time.rfind('-').filter(|at| *at > 10)).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<9.9}{zone}")
}

/// Turns records into what the client wants to see.
#[derive(Debug)]
pub struct Render {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<Stream>,
    left: u64,
    /// The next record begins a line.
    fresh: bool,
}

impl Render {
    /// For what is wanted.
    pub fn new(options: &Options) -> Self {
        Render {
            since: options.since,
            timestamps: options.timestamps,
            stream: options.stream,
            left: options.limit_bytes.unwrap_or(u64::MAX),
            fresh: true,
        }
    }

    /// Appends a record's text to `out`. False when no more may follow.
    pub fn push(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        let fresh = std::mem::replace(&mut self.fresh, record.text.last().is_none_or(|last| *last == b'\n'));
        if self.stream.is_some_and(|stream| stream != record.stream) {
            return true;
        }
        if let Some(since) = self.since
            && record.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let start = out.len();
        if self.timestamps && fresh {
            out.extend_from_slice(fixed(record.time).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX);
        out.truncate(start.saturating_add(allowed));
        self.left -= (out.len() - start) as u64;
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(options: &Options, lines: &[&str]) -> String {
        let (mut render, mut out) = (Render::new(options), Vec::new());
        for line in lines {
            if !render.push(&parse(line.as_bytes()).expect("a record"), &mut out) {
                break;
            }
        }
        String::from_utf8(out).expect("text")
    }

    const LINES: &[&str] = &[
        "2026-01-01T00:00:00.5Z stdout P hel\n",
        "2026-01-01T00:00:01Z stdout F lo\n",
        "2026-01-01T00:00:02.123456789+02:00 stderr F oops\n",
        "2026-01-01T00:00:03Z stdout F \n",
    ];

    #[test]
    fn records() {
        let all = Options::default();
        for (options, expect) in [
            (all.clone(), "hello\noops\n\n"),
            (
                Options { timestamps: true, ..all.clone() },
                "2026-01-01T00:00:00.500000000Z hello\n2026-01-01T00:00:02.123456789+02:00 oops\n2026-01-01T00:00:03.000000000Z \n",
            ),
            (Options { stream: Some(Stream::Stderr), ..all.clone() }, "oops\n"),
            (Options { limit_bytes: Some(4), ..all.clone() }, "hell"),
            (Options { since: Some("2026-01-01T00:00:01Z".parse().expect("a time")), ..all }, "lo\n\n"),
        ] {
            assert_eq!(render(&options, LINES), expect, "{options:?}");
        }
        for bad in ["", "x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z std F x", "yesterday stdout F x\n"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        let tagged = parse(b"2026-01-01T00:00:00Z stdout P:more x\n").expect("a record");
        assert_eq!(tagged.text, b"x");
    }
}

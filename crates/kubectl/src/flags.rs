//! Flags: what a command takes, and the reading of a command line by the rules of GNU long options and
//! clustered short ones, with the messages users of kubectl know.
//!
//! Must not know any command.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Error;

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` / `=false`.
    Switch,
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// A span of time such as `1m30s`.
    Time,
    /// Texts: repeated or separated by commas.
    List,
    /// Texts: repeated; commas are part of them.
    Each,
    /// A text after `=`, or nothing, which means this.
    Optional(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The long name without dashes.
    pub long: &'static str,
    /// The one-letter name; a space means none.
    pub short: char,
    /// What follows.
    pub takes: Takes,
    /// The value when it is not given.
    pub default: &'static str,
    /// For `--help`.
    pub help: &'static str,
}

/// A flag without a short name.
pub const fn flag(long: &'static str, takes: Takes, default: &'static str, help: &'static str) -> Flag {
    Flag { long, short: ' ', takes, default, help }
}

/// A flag with a short name.
pub const fn short(
    long: &'static str,
    short: char,
    takes: Takes,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { long, short, takes, default, help }
}

/// A command line that has been read.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// What is not a flag, in order.
    pub words: Vec<String>,
    /// How many words came before `--`, if there was one.
    pub dash: Option<usize>,
    flags: BTreeMap<&'static str, Flag>,
    given: BTreeMap<&'static str, Vec<String>>,
}

impl Args {
    /// Reads `line` with these flags.
    pub fn parse(line: &[String], known: &[&[Flag]]) -> Result<Args, String> {
        let mut args = Args::default();
        for flag in known.iter().copied().flatten() {
            args.flags.insert(flag.long, *flag);
        }
        let mut rest = line.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                args.dash = Some(args.words.len());
                args.words.extend(rest.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                args.long(long, &mut rest)?;
            } else if word.len() > 1 && word.starts_with('-') {
                args.cluster(word, &mut rest)?;
            } else {
                args.words.push(word.clone());
            }
        }
        Ok(args)
    }

    fn long(&mut self, text: &str, rest: &mut std::slice::Iter<'_, String>) -> Result<(), String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let Some(flag) = self.flags.get(name).copied() else {
            return Err(format!("unknown flag: --{name}"));
        };
        let value = match (value, flag.takes) {
            (Some(value), _) => value,
            (None, Takes::Switch) => "true".to_owned(),
            (None, Takes::Optional(implied)) => implied.to_owned(),
            (None, _) => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        self.set(flag, value)
    }

    fn cluster(&mut self, word: &str, rest: &mut std::slice::Iter<'_, String>) -> Result<(), String> {
        let mut letters = &word[1..];
        while let Some(letter) = letters.chars().next() {
            let found = self.flags.values().find(|flag| flag.short == letter && letter != ' ').copied();
            let Some(flag) = found else {
                return Err(format!("unknown shorthand flag: {letter:?} in -{letters}"));
            };
            let after = &letters[letter.len_utf8()..];
            if let Some(value) = after.strip_prefix('=') {
                return self.set(flag, value.to_owned());
            }
            match flag.takes {
                Takes::Switch => self.set(flag, "true".to_owned())?,
                Takes::Optional(implied) => self.set(flag, implied.to_owned())?,
                _ if !after.is_empty() => return self.set(flag, after.to_owned()),
                _ => {
                    let missing = || format!("flag needs an argument: {letter:?} in -{letters}");
                    return self.set(flag, rest.next().cloned().ok_or_else(missing)?);
                }
            }
            letters = after;
        }
        Ok(())
    }

    fn set(&mut self, flag: Flag, value: String) -> Result<(), String> {
        let bad = |why: String| {
            let shown = if flag.short == ' ' {
                format!("--{}", flag.long)
            } else {
                format!("-{}, --{}", flag.short, flag.long)
            };
            format!("invalid argument {value:?} for {shown:?} flag: {why}")
        };
        match flag.takes {
            Takes::Switch => {
                let known = truth(&value);
                known.ok_or_else(|| bad(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")))?;
            }
            Takes::Number => {
                let read = value.parse::<i64>();
                read.map_err(|_| bad(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")))?;
            }
            Takes::Time => {
                duration(&value).ok_or_else(|| bad(format!("time: invalid duration {value:?}")))?;
            }
            _ => {}
        }
        let values = self.given.entry(flag.long).or_default();
        match flag.takes {
            Takes::List => values.extend(value.split(',').filter(|part| !part.is_empty()).map(str::to_owned)),
            Takes::Each => values.push(value),
            _ => *values = vec![value],
        }
        Ok(())
    }

    /// True when the command line names the flag.
    pub fn given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The text of a flag, or its default; empty when the command has no such flag.
    pub fn text(&self, name: &str) -> &str {
        let given = self.given.get(name).and_then(|values| values.last());
        given.map_or_else(|| self.flags.get(name).map_or("", |flag| flag.default), String::as_str)
    }

    /// The same of a flag that holds one text: a command may give a flag of all commands another meaning.
    pub fn alone(&self, name: &str) -> Option<&str> {
        self.text_if(name).filter(|_| self.flags.get(name).is_some_and(|flag| flag.takes == Takes::Text))
    }

    /// A flag's text if it was given and is not empty.
    pub fn text_if(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// True when a switch is on.
    pub fn on(&self, name: &str) -> bool {
        truth(self.text(name)).unwrap_or(false)
    }

    /// A number; 0 when it has no default.
    pub fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// A span of time; zero when it has no default.
    pub fn time(&self, name: &str) -> Duration {
        duration(self.text(name)).unwrap_or_default()
    }

    /// All texts of a repeated flag, or its default.
    pub fn list(&self, name: &str) -> Vec<String> {
        if let Some(values) = self.given.get(name) {
            return values.clone();
        }
        let default = self.flags.get(name).map_or("", |flag| flag.default);
        default.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// The word at a position, or an error of this text.
    pub fn word(&self, at: usize, otherwise: &str) -> Result<&str, Error> {
        self.words.get(at).map(String::as_str).ok_or_else(|| Error::usage(otherwise))
    }

    /// Words before `--` and words after it.
    pub fn split(&self) -> (&[String], &[String]) {
        self.words.split_at(self.dash.unwrap_or(self.words.len()))
    }

    /// The same flags with other words: for a command that acts through another.
    pub fn with_words(&self, words: &[String]) -> Args {
        Args { words: words.to_vec(), dash: None, ..self.clone() }
    }

    /// Sets a flag as if it had been given.
    pub fn put(&mut self, name: &'static str, value: &str) {
        self.given.insert(name, vec![value.to_owned()]);
    }
}

/// A truth value as Go reads it.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A span of time as Go reads it, such as `1h30m`, `250ms` or `0`. Negative spans become the longest one: the
/// flags that take them mean "for ever".
pub fn duration(text: &str) -> Option<Duration> {
    if let Some(rest) = text.strip_prefix('-') {
        return duration(rest).map(|_| Duration::from_secs(7 * 24 * 3600));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[
        short("watch", 'w', Takes::Switch, "false", ""),
        short("output", 'o', Takes::Text, "", ""),
        short("filename", 'f', Takes::List, "", ""),
        flag("env", Takes::Each, "", ""),
        flag("tail", Takes::Number, "-1", ""),
        flag("timeout", Takes::Time, "5s", ""),
        flag("dry-run", Takes::Optional("unchanged"), "none", ""),
    ];

    fn parse(line: &str) -> Result<Args, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Args::parse(&words, &[KNOWN])
    }

    #[test]
    fn command_lines() {
        let args = parse("get -wo yaml a -f x,y --filename=z --env A=1,2 --env=B --dry-run b -- -c d")
            .expect("reads");
        assert_eq!(args.words, ["get", "a", "b", "-c", "d"]);
        assert_eq!(args.dash, Some(3));
        assert!(args.on("watch") && args.given("dry-run"));
        assert_eq!(
            (args.text("output"), args.text("dry-run"), args.number("tail")),
            ("yaml", "unchanged", -1)
        );
        assert_eq!(args.list("filename"), ["x", "y", "z"]);
        assert_eq!(args.list("env"), ["A=1,2", "B"]);
        assert_eq!(args.time("timeout"), Duration::from_secs(5));
        assert_eq!(parse("-oname").expect("reads").text("output"), "name");
        assert!(!parse("--watch=false").expect("reads").on("watch"));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expect) in [
            ("--nope", "unknown flag: --nope"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("-wx", "unknown shorthand flag: 'x' in -x"),
            ("--output", "flag needs an argument: --output"),
            ("-o", "flag needs an argument: 'o' in -o"),
            (
                "--tail=a",
                "invalid argument \"a\" for \"--tail\" flag: strconv.ParseInt: parsing \"a\": invalid syntax",
            ),
            (
                "-w=x",
                "invalid argument \"x\" for \"-w, --watch\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            ("--timeout=5", "invalid argument \"5\" for \"--timeout\" flag: time: invalid duration \"5\""),
        ] {
            assert_eq!(parse(line).expect_err(line), expect);
        }
    }

    #[test]
    fn spans_of_time() {
        for (text, expect) in [
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0", Some(0)),
            ("1.5s", Some(1_500)),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(duration(text).map(|span| span.as_millis()), expect, "{text}");
        }
    }
}

//! The paths and query strings of streaming requests, parsed once.
//!
//! Must not know pods or sockets.

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a command with streams.
    Exec,
    /// Connect to the main process.
    Attach,
    /// Run a command and answer with its output.
    Run,
    /// Connect to ports of the pod.
    PortForward,
    /// Read what a container wrote.
    Logs,
}

/// Of which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is asked.
    pub action: Action,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, where the path has one.
    pub uid: Option<String>,
    /// The container; empty for port-forwards.
    pub container: String,
}

/// The target of a path; `None` when the path is not one of ours.
pub fn parse(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let target = |action, namespace: &str, pod: &str, uid: Option<&str>, container: &str| {
        let (namespace, pod, container) = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        Some(Target { action, namespace, pod, uid: uid.map(str::to_owned), container })
    };
    match parts[..] {
        ["portForward", namespace, pod] => target(Action::PortForward, namespace, pod, None, ""),
        ["portForward", namespace, pod, uid] => target(Action::PortForward, namespace, pod, Some(uid), ""),
        ["containerLogs", namespace, pod, container] => target(Action::Logs, namespace, pod, None, container),
        [action, namespace, pod, container] => target(command(action)?, namespace, pod, None, container),
        [action, namespace, pod, uid, container] => {
            target(command(action)?, namespace, pod, Some(uid), container)
        }
        _ => None,
    }
}

fn command(text: &str) -> Option<Action> {
    match text {
        "exec" => Some(Action::Exec),
        "attach" => Some(Action::Attach),
        "run" => Some(Action::Run),
        _ => None,
    }
}

/// A query string's pairs, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the `?`. A pair that cannot be decoded is left out, as Go does.
    pub fn parse(text: Option<&str>) -> Query {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        Query(decoded.collect())
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A part of a URL without its percent signs; `None` when it is no UTF-8 then.
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Which streams of a command are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Streams {
    /// From the query, where only `1` is yes; the error is the text of a 400.
    pub fn parse(query: &Query) -> Result<Streams, &'static str> {
        let yes = |name| query.get(name) == Some("1");
        let tty = yes("tty");
        let streams =
            Streams { stdin: yes("input"), stdout: yes("output"), stderr: yes("error") && !tty, tty };
        if streams.stdin || streams.stdout || streams.stderr {
            Ok(streams)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// The ports of an old port-forward over WebSocket; the error is the text of a 400.
pub fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for value in query.all("port") {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for text in value.split(',') {
            match text.parse::<u16>() {
                Ok(0) => return Err(format!("port {value:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => return Err(format!("unable to parse {value:?} as a port: {error}")),
            }
        }
    }
    if ports.is_empty() { Err("query parameter \"port\" is required".to_owned()) } else { Ok(ports) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<(Action, &str, &str, Option<&str>, &str)>| {
            let found = parse(path);
            let found = found.as_ref().map(|target| {
                let (pod, uid) = (target.pod.as_str(), target.uid.as_deref());
                (target.action, target.namespace.as_str(), pod, uid, target.container.as_str())
            });
            assert_eq!(found, expect, "{path}");
        };
        check("/exec/n/p/c", Some((Action::Exec, "n", "p", None, "c")));
        check("/exec/n/p/u/c", Some((Action::Exec, "n", "p", Some("u"), "c")));
        check("/attach/n/p/c", Some((Action::Attach, "n", "p", None, "c")));
        check("/run/n/p/c", Some((Action::Run, "n", "p", None, "c")));
        check("/portForward/n/p", Some((Action::PortForward, "n", "p", None, "")));
        check("/portForward/n/p/u", Some((Action::PortForward, "n", "p", Some("u"), "")));
        check("/containerLogs/n/p/c", Some((Action::Logs, "n", "p", None, "c")));
        for other in
            ["/exec/n/p", "/exec/n//c", "/pods", "/logs/a/b/c", "exec/n/p/c", "/containerLogs/n/p/c/d"]
        {
            check(other, None);
        }
    }

    #[test]
    fn queries() {
        let query =
            Query::parse(Some("command=sh&command=-c&command=a%20b+c%26&input=1&tty=1&error=1&bad=%zz"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b c&"]);
        assert_eq!(query.get("bad"), None);
        let streams = Streams::parse(&query).expect("input");
        assert_eq!(streams, Streams { stdin: true, tty: true, ..Streams::default() });
        assert!(Streams::parse(&Query::parse(Some("input=true"))).is_err());
        for (text, expect) in [
            ("port=80,81&port=82", Ok(vec![80, 81, 82])),
            ("", Err("query parameter \"port\" is required")),
            ("port=", Err("query parameter \"port\" cannot be empty")),
            ("port=0", Err("port \"0\" must be > 0")),
        ] {
            assert_eq!(ports(&Query::parse(Some(text))), expect.map_err(str::to_owned), "{text}");
        }
    }
}

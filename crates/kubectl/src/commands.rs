//! The table of commands, and how a command line finds its row.
//!
//! Must not know what commands do.

use futures::future::LocalBoxFuture;

use crate::app::App;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::{Error, help, verbs};

/// What runs a command.
pub type Run = for<'a> fn(&'a App, &'a Args) -> LocalBoxFuture<'a, Result<(), Error>>;

/// A part of the list that `kubectl --help` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// For the first hour.
    Beginner,
    /// For every day.
    Intermediate,
    /// Rolling out and scaling.
    Deploy,
    /// The cluster and its nodes.
    Cluster,
    /// Looking for faults.
    Troubleshooting,
    /// Whole objects.
    Advanced,
    /// Labels and annotations.
    Settings,
    /// The rest.
    Other,
}

impl Group {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Beginner => "Basic Commands (Beginner):",
            Group::Intermediate => "Basic Commands (Intermediate):",
            Group::Deploy => "Deploy Commands:",
            Group::Cluster => "Cluster Management Commands:",
            Group::Troubleshooting => "Troubleshooting and Debugging Commands:",
            Group::Advanced => "Advanced Commands:",
            Group::Settings => "Settings Commands:",
            Group::Other => "Other Commands:",
        }
    }
}

/// A command.
pub struct Command {
    /// One word, or two for a command below another.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Where help lists it.
    pub group: Group,
    /// What follows the name.
    pub usage: &'static str,
    /// One line.
    pub about: &'static str,
    /// Examples, one a line.
    pub examples: &'static str,
    /// Its flags, beside those that all commands share.
    pub flags: &'static [&'static [Flag]],
    /// What runs it.
    pub run: Run,
}

/// A command that only holds others, and what help says of it.
pub struct Parent {
    /// Its name.
    pub name: &'static str,
    /// Where help lists it.
    pub group: Group,
    /// One line.
    pub about: &'static str,
}

/// Flags of every command.
pub const GLOBAL: &[Flag] = &[
    flag("as", Takes::Text, "", "Username to impersonate; may be a service account"),
    flag("as-group", Takes::Each, "", "Group to impersonate; may be repeated"),
    flag("as-uid", Takes::Text, "", "UID to impersonate"),
    flag("as-user-extra", Takes::Each, "", "Extra of the user to impersonate, key=value; may be repeated"),
    flag("cache-dir", Takes::Text, "", "Accepted for compatibility: nothing is cached"),
    flag("certificate-authority", Takes::Text, "", "File of trusted certificate authorities"),
    flag("client-certificate", Takes::Text, "", "Client certificate file"),
    flag("client-key", Takes::Text, "", "Client key file"),
    flag("cluster", Takes::Text, "", "The kubeconfig cluster to use"),
    flag("context", Takes::Text, "", "The kubeconfig context to use"),
    flag("insecure-skip-tls-verify", Takes::Switch, "false", "Do not verify the server's certificate"),
    flag("kubeconfig", Takes::Text, "", "The kubeconfig file"),
    flag("match-server-version", Takes::Switch, "false", "Accepted for compatibility"),
    short("namespace", 'n', Takes::Text, "", "The namespace to work in"),
    flag("password", Takes::Text, "", "Password for basic authentication"),
    flag("request-timeout", Takes::Text, "0", "Accepted for compatibility: calls end after a minute"),
    short("server", 's', Takes::Text, "", "Address of the API server"),
    flag("tls-server-name", Takes::Text, "", "The name expected in the server's certificate"),
    flag("token", Takes::Text, "", "Bearer token"),
    flag("user", Takes::Text, "", "The kubeconfig user to use"),
    flag("username", Takes::Text, "", "User name for basic authentication"),
    short("v", 'v', Takes::Number, "0", "Accepted for compatibility"),
    flag("warnings-as-errors", Takes::Switch, "false", "Accepted for compatibility"),
];

/// `-o` and what belongs to it.
pub const PRINT: &[Flag] = &[
    short(
        "output",
        'o',
        Takes::Text,
        "",
        "json, yaml, kyaml, name, wide, jsonpath=…, go-template=…, custom-columns=…",
    ),
    flag("template", Takes::Text, "", "Template of -o go-template or jsonpath"),
    flag("show-managed-fields", Takes::Switch, "false", "Keep managedFields in JSON and YAML"),
    flag("allow-missing-template-keys", Takes::Switch, "true", "Missing fields of a template are no error"),
];

/// `-f` and what belongs to it.
pub const FILES: &[Flag] = &[
    short("filename", 'f', Takes::List, "", "Files or directories of manifests, or - for standard input"),
    short("kustomize", 'k', Takes::Text, "", "Not supported: render first and use -f -"),
    short("recursive", 'R', Takes::Switch, "false", "Read directories below -f too"),
];

/// `-l`.
pub const LABELS: &[Flag] = &[short("selector", 'l', Takes::Text, "", "Label selector: a=b,c!=d,e in (f,g)")];

/// `--field-selector`.
pub const FIELDS: &[Flag] = &[flag("field-selector", Takes::Text, "", "Field selector: a=b,c!=d")];

/// `-A`.
pub const EVERYWHERE: &[Flag] = &[short("all-namespaces", 'A', Takes::Switch, "false", "All namespaces")];

/// `--all`.
pub const ALL: &[Flag] = &[flag("all", Takes::Switch, "false", "All objects of the named kinds")];

/// `--local`.
pub const LOCAL: &[Flag] = &[flag("local", Takes::Switch, "false", "Work on manifests without a server")];

/// `--dry-run` and `--field-manager`.
pub const WRITE: &[Flag] = &[
    flag("dry-run", Takes::Optional("unchanged"), "none", "none, server or client: only try"),
    flag("field-manager", Takes::Text, "", "Who owns the changed fields"),
];

/// `--validate`.
pub const VALIDATE: &[Flag] = &[flag(
    "validate",
    Takes::Optional("strict"),
    "strict",
    "strict, warn or ignore: unknown and repeated fields",
)];

/// Commands that only hold others.
pub const PARENTS: &[Parent] = &[
    Parent {
        name: "apply",
        group: Group::Advanced,
        about: "Apply a configuration to a resource by file name or stdin",
    },
    Parent { name: "create", group: Group::Beginner, about: "Create a resource from a file or from stdin" },
    Parent { name: "set", group: Group::Beginner, about: "Set specific features on objects" },
    Parent { name: "rollout", group: Group::Deploy, about: "Manage the rollout of a resource" },
    Parent { name: "certificate", group: Group::Cluster, about: "Modify certificate resources" },
    Parent { name: "top", group: Group::Cluster, about: "Display resource (CPU/memory) usage" },
    Parent { name: "auth", group: Group::Troubleshooting, about: "Inspect authorization" },
    Parent { name: "config", group: Group::Other, about: "Modify kubeconfig files" },
];

/// All commands.
pub fn table() -> impl Iterator<Item = &'static Command> {
    verbs::TABLES.iter().copied().flatten().copied().flatten()
}

/// A command line that has been read.
pub enum Read {
    /// A command with its arguments.
    Run(&'static Command, Args),
    /// Somebody wants help.
    Help(String),
}

fn find(name: &str) -> Option<&'static Command> {
    table().find(|command| {
        let (parent, own) = command.name.rsplit_once(' ').unwrap_or(("", command.name));
        let (asked_parent, asked) = name.rsplit_once(' ').unwrap_or(("", name));
        parent == asked_parent && (own == asked || command.aliases.contains(&asked))
    })
}

/// The positions of the first words that are no flags or flags' values.
fn words(line: &[String]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < line.len() && line[at] != "--" {
        let word = &line[at];
        if !word.starts_with('-') || word == "-" {
            found.push(at);
        } else if !word.contains('=') {
            let takes_value = |flag: &&Flag| {
                let named = match word.strip_prefix("--") {
                    Some(long) => flag.long == long,
                    None => word.len() == 2 && word.ends_with(flag.short) && flag.short != ' ',
                };
                named && !matches!(flag.takes, Takes::Switch | Takes::Optional(_))
            };
            if GLOBAL.iter().any(|flag| takes_value(&flag)) {
                at += 1;
            }
        }
        at += 1;
    }
    found
}

/// Finds the command and reads its flags.
pub fn read(line: &[String]) -> Result<Read, Error> {
    let positions = words(line);
    let Some(&first) = positions.first() else {
        if let Some(unknown) = line.iter().find(|word| *word != "--help" && *word != "-h") {
            let bad = Args::parse(line, &[GLOBAL, help::FLAGS]).err();
            let message = bad.unwrap_or_else(|| format!("unknown flag: {unknown}"));
            return Err(Error::Flags { command: "kubectl".to_owned(), message });
        }
        return Ok(Read::Help(help::overview()));
    };
    let mut used = vec![first];
    let name = line[first].clone();
    let mut command = find(&name);
    let parent = PARENTS.iter().find(|parent| parent.name == name);
    if let (Some(parent), Some(&second)) = (parent, positions.get(1)) {
        if let Some(found) = find(&format!("{} {}", parent.name, line[second])) {
            used.push(second);
            command = Some(found);
        } else if command.is_none() {
            return Err(Error::misuse(parent.name, &format!("unknown command {:?}", line[second])));
        }
    }
    if name == "help" {
        let topic: Vec<&str> = positions[1..].iter().map(|at| line[*at].as_str()).collect();
        return Ok(Read::Help(help::topic(&topic.join(" "))));
    }
    if name == "options" {
        return Ok(Read::Help(help::options()));
    }
    let Some(command) = command else {
        if parent.is_some() {
            return Ok(Read::Help(help::topic(&name)));
        }
        return Err(Error::usage(format!(
            "unknown command {name:?} for \"kubectl\"{}",
            help::suggestions(&name)
        )));
    };
    let mut rest = line.to_vec();
    for at in used.iter().rev() {
        rest.remove(*at);
    }
    let mut known: Vec<&[Flag]> = vec![GLOBAL, help::FLAGS];
    known.extend(command.flags);
    let args = Args::parse(&rest, &known)
        .map_err(|message| Error::Flags { command: format!("kubectl {}", command.name), message })?;
    if args.on("help") {
        return Ok(Read::Help(help::of(command)));
    }
    Ok(Read::Run(command, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match read(&words) {
            Ok(Read::Run(command, args)) => format!("{}|{}", command.name, args.words.join(",")),
            Ok(Read::Help(text)) => text.lines().next().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn lines_find_their_command() {
        for (line, expect) in [
            ("get pods a", "get|pods,a"),
            ("-n kube-system get pods", "get|pods"),
            ("--namespace x -v 3 get po", "get|po"),
            ("rollout status deploy/x", "rollout status|deploy/x"),
            ("create -f x", "create|"),
            ("create deploy x --image=y", "create deployment|x"),
            ("log x", "unknown command \"log\" for \"kubectl\"\n\nDid you mean this?\n\tlogs\n\ttop"),
            ("get --nope", "unknown flag: --nope\nSee 'kubectl get --help' for usage."),
            ("rollout", "Manage the rollout of a resource."),
        ] {
            assert_eq!(found(line), expect, "{line}");
        }
    }

    #[test]
    fn the_table_is_consistent() {
        let mut names = std::collections::BTreeSet::new();
        for command in table() {
            assert!(names.insert(command.name), "{} is there twice", command.name);
            if let Some((parent, _)) = command.name.split_once(' ') {
                assert!(PARENTS.iter().any(|row| row.name == parent), "{} has no parent", command.name);
            }
            let mut letters = std::collections::BTreeMap::new();
            let mut longs = std::collections::BTreeSet::new();
            for flag in command.flags.iter().copied().flatten().chain(GLOBAL) {
                // Bindings speak of users of their own.
                assert!(
                    longs.insert(flag.long) || flag.long == "user",
                    "{}: --{} is there twice",
                    command.name,
                    flag.long
                );
                if flag.short != ' ' {
                    let other = letters.insert(flag.short, flag.long);
                    assert!(other.is_none(), "{}: -{} means two things", command.name, flag.short);
                }
            }
        }
    }
}

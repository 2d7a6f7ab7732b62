//! Help, made from the table of commands.

use crate::commands::{Command, GLOBAL, Group, PARENTS, table};
use crate::flags::{Flag, Takes, short};

/// `--help`.
pub const FLAGS: &[Flag] = &[short("help", 'h', Takes::Switch, "false", "Show help")];

/// All commands by group.
pub fn overview() -> String {
    let mut rows: Vec<(Group, &str, &str)> =
        PARENTS.iter().map(|parent| (parent.group, parent.name, parent.about)).collect();
    let single = table().filter(|command| !command.name.contains(' '));
    for command in single.filter(|command| !PARENTS.iter().any(|parent| parent.name == command.name)) {
        rows.push((command.group, command.name, command.about));
    }
    rows.sort();
    let mut out = "kubectl controls the Kubernetes cluster manager.\n".to_owned();
    let mut last = None;
    for (group, name, about) in rows {
        if last != Some(group) {
            out.push_str(&format!("\n{}\n", group.title()));
            last = Some(group);
        }
        out.push_str(&format!("  {name:<15} {about}\n"));
    }
    out.push_str(
        "\nUsage:\n  kubectl [flags] [options]\n\nUse \"kubectl <command> --help\" for more information about a given \
         command.\nUse \"kubectl options\" for a list of global command-line options (applies to all commands).\n",
    );
    out
}

/// Help on a command by name; the overview for an unknown one.
pub fn topic(name: &str) -> String {
    if let Some(command) = table().find(|command| command.name == name) {
        return of(command);
    }
    let Some(parent) = PARENTS.iter().find(|parent| parent.name == name) else { return overview() };
    format!(
        "{}.\n{}\nUsage:\n  kubectl {name} SUBCOMMAND [options]\n\nUse \"kubectl {name} <command> --help\" for more \
         information about a given command.\n",
        parent.about,
        below(name)
    )
}

/// The commands below another; nothing when there are none.
fn below(name: &str) -> String {
    let prefix = format!("{name} ");
    let rows: Vec<String> = table()
        .filter_map(|command| Some((command.name.strip_prefix(&prefix)?, command.about)))
        .map(|(name, about)| format!("  {name:<20} {about}\n"))
        .collect();
    if rows.is_empty() { String::new() } else { format!("\nAvailable Commands:\n{}", rows.concat()) }
}

/// Help on one command.
pub fn of(command: &Command) -> String {
    let mut out = format!("{}.\n", command.about);
    if !command.aliases.is_empty() {
        out.push_str(&format!("\nAliases:\n{}, {}\n", command.name, command.aliases.join(", ")));
    }
    if !command.examples.is_empty() {
        out.push_str("\nExamples:\n");
        for line in command.examples.lines() {
            out.push_str(&format!("  {}\n", line.trim_start()));
        }
    }
    out.push_str(&below(command.name));
    let mut flags: Vec<&Flag> = command.flags.iter().copied().flatten().collect();
    flags.sort_by_key(|flag| flag.long);
    if !flags.is_empty() {
        out.push_str(&format!("\nOptions:\n{}", list(&flags)));
    }
    out.push_str(&format!(
        "\nUsage:\n  kubectl {} {} [options]\n\nUse \"kubectl options\" for a list of global command-line options \
         (applies to all commands).\n",
        command.name, command.usage
    ));
    out
}

/// The flags of all commands.
pub fn options() -> String {
    let flags: Vec<&Flag> = GLOBAL.iter().collect();
    format!("The following options can be passed to any command:\n\n{}", list(&flags))
}

fn list(flags: &[&Flag]) -> String {
    let mut out = String::new();
    for flag in flags {
        let start = if flag.short == ' ' { "    ".to_owned() } else { format!("-{}, ", flag.short) };
        let default = match flag.takes {
            Takes::Switch | Takes::Number | Takes::Time => flag.default.to_owned(),
            Takes::List | Takes::Each => format!("[{}]", flag.default),
            Takes::Text | Takes::Optional(_) => format!("'{}'", flag.default),
        };
        out.push_str(&format!("    {start}--{}={default}:\n\t{}\n", flag.long, flag.help));
    }
    out
}

/// Commands with a name like this one.
pub fn suggestions(name: &str) -> String {
    let mut close: Vec<&str> =
        table().map(|command| command.name.split(' ').next().unwrap_or_default()).collect();
    close.sort_unstable();
    close.dedup();
    close.retain(|known| known.starts_with(name) || distance(known, name) <= 2);
    if close.is_empty() { String::new() } else { format!("\n\nDid you mean this?\n\t{}", close.join("\n\t")) }
}

/// How many letters must change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

//! `exec` and `attach`: a command in a container and this terminal joined.

use std::io::{IsTerminal as _, Read as _};

use bytes::Bytes;
use client::streaming::{self, Command as Running, CommandOptions, Exit, Input, Output, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::app::{App, Sink};
use crate::commands::{Command, FILES, Group};
use crate::describe::text;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::select::Info;
use crate::verbs::{logs, pods, run};
use crate::{Error, files, select};

/// Input that waits to be sent, pieces.
const QUEUE: usize = 16;
/// The size of a piece of input.
const PIECE_BYTES: usize = 32 << 10;

const FLAGS: &[Flag] = &[
    short("container", 'c', Takes::Text, "", "The container"),
    flag("pod-running-timeout", Takes::Time, "1m", "How long to wait for a pod"),
    short("quiet", 'q', Takes::Switch, "false", "Only the output of the session"),
    short("stdin", 'i', Takes::Switch, "false", "Pass standard input to the container"),
    short("tty", 't', Takes::Switch, "false", "Standard input is a terminal"),
];
const ATTACH: &[Flag] = &[flag("detach-keys", Takes::Text, "", "Accepted for compatibility")];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "exec",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "(POD | TYPE/NAME) [-c CONTAINER] [flags] -- COMMAND [args...]",
        about: "Execute a command in a container",
        examples: "kubectl exec mypod -- date\nkubectl exec mypod -c ruby -it -- bash -il",
        flags: &[FILES, FLAGS],
        run: run!(exec),
    },
    Command {
        name: "attach",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "(POD | TYPE/NAME) -c CONTAINER",
        about: "Attach to a running container",
        examples: "kubectl attach mypod -c ruby -i -t",
        flags: &[FLAGS, ATTACH],
        run: run!(attach),
    },
];

async fn exec(app: &App, args: &Args) -> Result<(), Error> {
    let (before, command) = args.split();
    if args.dash.is_none() && args.words.len() > 1 {
        let why = "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead";
        return Err(Error::misuse("exec", why));
    }
    if before.is_empty() && !args.given("filename") {
        return Err(Error::usage("pod, type/name or --filename must be specified"));
    }
    if command.is_empty() {
        return Err(Error::usage("you must specify at least one command for the container"));
    }
    let limit = args.time("pod-running-timeout");
    let pod = match args.list("filename").first() {
        None => pods::one(app, before, limit).await?,
        Some(_) => {
            let manifest = files::read(app, &args.list("filename"), false)?.into_iter().next();
            let manifest = manifest.ok_or_else(|| Error::usage("no object in the manifest"))?;
            let info = select::locate(app, manifest).await?;
            let word = format!("{}/{}", info.kind.resource.gvr.group_resource(), info.name);
            pods::one(app, &[word], limit).await?
        }
    };
    let phase = text(&pod.object, "/status/phase");
    if ["Succeeded", "Failed"].contains(&phase) {
        return Err(Error::state(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = pods::container(app, &pod.object, args.text("container"), args.on("quiet"))?;
    let options =
        CommandOptions { command: command.to_vec(), ..options(app, args, &pod, text(&container, "/name")) };
    let running = streaming::exec(&app.streams()?, &options).await?;
    session(app, running, &options, true).await
}

fn options(app: &App, args: &Args, pod: &Info, container: &str) -> CommandOptions {
    let stdin = args.on("stdin");
    let mut tty = args.on("tty");
    if tty && !(stdin && std::io::stdin().is_terminal()) {
        if stdin {
            app.err.line("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        tty = tty && !stdin;
    }
    CommandOptions {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        container: container.to_owned(),
        command: Vec::new(),
        stdin,
        stdout: true,
        stderr: !tty,
        tty,
    }
}

async fn attach(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.is_empty() {
        return Err(Error::usage("at least 1 argument is required for attach"));
    }
    if args.words.len() > 2 {
        return Err(Error::usage(format!(
            "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]",
            args.words.len(),
            args.words.join(" ")
        )));
    }
    let pod = pods::one(app, &args.words, args.time("pod-running-timeout")).await?;
    let phase = text(&pod.object, "/status/phase");
    if ["Succeeded", "Failed"].contains(&phase) {
        return Err(Error::state(format!(
            "cannot attach a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = pods::container(app, &pod.object, args.text("container"), args.on("quiet"))?;
    attach_to(app, args, &pod, &container).await
}

/// Attaches to a container of a running pod.
pub async fn attach_to(app: &App, args: &Args, pod: &Info, container: &Value) -> Result<(), Error> {
    let name = text(container, "/name");
    let mut options = options(app, args, pod, name);
    if options.tty && container["tty"] != true {
        app.err.line(&format!("error: Unable to use a TTY - container {name} did not allocate one"));
        options.tty = false;
    }
    if container["tty"] == true {
        // A container with a terminal mixes both outputs.
        options.tty = true;
    }
    options.stderr = !options.tty;
    if options.stdin && !args.on("quiet") {
        app.err.line("If you don't see a command prompt, try pressing enter.");
    }
    let running = streaming::attach(&app.streams()?, &options).await?;
    session(app, running, &options, false).await
}

/// Shows what a container wrote so far, then attaches to it; when that is too late, shows the rest of its log.
pub async fn join(app: &App, args: &Args, pod: &Info, container: &Value) -> Result<(), Error> {
    let name = text(container, "/name");
    let seen = match logs::whole(app, pod, name, false, 0).await {
        Ok(seen) => seen,
        Err(error) => {
            app.err.line(&format!("warning: couldn't fetch pre-attach logs: {error}"));
            0
        }
    };
    if let Err(error) = attach_to(app, args, pod, container).await {
        if !matches!(error, Error::Bare { .. }) {
            let what = format!("pod/{}", pod.name);
            app.err.line(&format!(
                "warning: couldn't attach to {what}, falling back to streaming logs: {error}"
            ));
        }
        logs::whole(app, pod, name, true, seen).await?;
    }
    Ok(())
}

/// The terminal as it was, put back when the value goes.
struct Raw(Termios);

impl Raw {
    /// Makes standard input raw if it is a terminal.
    fn new() -> Option<Raw> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    Some(TerminalSize { width: size.ws_col, height: size.ws_row })
}

/// Standard input in pieces; read by a thread of its own, for reading cannot be cancelled.
fn stdin_pieces(app: &App) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let given = app.given_stdin();
    std::thread::spawn(move || {
        if let Some(bytes) = given {
            let _ = sender.blocking_send(Bytes::from(bytes));
            return;
        }
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut piece) {
            if sender.blocking_send(Bytes::copy_from_slice(&piece[..count])).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Joins a command and this terminal until the command ends.
pub async fn session(
    app: &App,
    running: Running,
    options: &CommandOptions,
    is_exec: bool,
) -> Result<(), Error> {
    let raw = if options.tty && options.stdin { Raw::new() } else { None };
    let (out, err) = (app.out.clone(), app.err.clone());
    let stdin = options.stdin.then(|| stdin_pieces(app));
    let exit = pump(running, stdin, options.tty, &out, &err).await;
    drop(raw);
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => {
            Err(Error::Bare { message: format!("command terminated with exit code {code}"), code })
        }
        // A process that one is attached to may be lost with its pod.
        Exit::Error(error) if !is_exec && error.message.contains("connection was lost") => Ok(()),
        Exit::Error(error) => Err(Error::state(error.message)),
    }
}

/// Carries bytes both ways until the command ends. Each way goes on while the other waits.
pub async fn pump(
    running: Running,
    stdin: Option<mpsc::Receiver<Bytes>>,
    tty: bool,
    out: &Sink,
    err: &Sink,
) -> Exit {
    let Running { input, mut output } = running;
    let receive = async {
        loop {
            match output.recv().await {
                Some(Output::Stdout(bytes)) => out.bytes(&bytes),
                Some(Output::Stderr(bytes)) => err.bytes(&bytes),
                Some(Output::Exit(exit)) => return exit,
                None => return Exit::Error(api::ApiError::internal("the connection was lost")),
            }
        }
    };
    tokio::select! {
        exit = receive => exit,
        never = feed(stdin, &input) => never,
        never = resize(tty, &input) => never,
    }
}

/// Sends standard input and its end, then waits for ever.
async fn feed(stdin: Option<mpsc::Receiver<Bytes>>, input: &mpsc::Sender<Input>) -> Exit {
    if let Some(mut stdin) = stdin {
        while let Some(bytes) = stdin.recv().await {
            if input.send(Input::Stdin(bytes)).await.is_err() {
                return std::future::pending().await;
            }
        }
        let _ = input.send(Input::Eof).await;
    }
    std::future::pending().await
}

/// Tells the terminal's size now and whenever it changes.
async fn resize(tty: bool, input: &mpsc::Sender<Input>) -> Exit {
    let changed = if tty { signal(SignalKind::window_change()).ok() } else { None };
    if let Some(mut changed) = changed {
        loop {
            if let Some(size) = size() {
                let _ = input.send(Input::Resize(size)).await;
            }
            if changed.recv().await.is_none() {
                break;
            }
        }
    }
    std::future::pending().await
}

//! What every command works with: where output goes, the connection, the kinds the server has.
//!
//! Must not know any command.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;

use base::{Clock, Rng, Tasks};
use client::streaming::Context;
use client::{Client, Discovery, Https, Transport};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::Error;
use crate::connect::{self, Wire};
use crate::flags::Args;
use crate::kinds::Kinds;

/// Who we say we are.
pub const USER_AGENT: &str = "kubectl/v1.36.2 (linux/amd64) navarch";

type Stream = Arc<Mutex<Box<dyn Write + Send>>>;

/// A place for output; cheap to clone.
#[derive(Clone)]
pub struct Sink(Stream);

impl Sink {
    /// Over a writer. When nobody reads any more, the process ends as if killed by SIGPIPE.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Sink(Arc::new(Mutex::new(Box::new(writer))))
    }

    /// Writes bytes.
    pub fn bytes(&self, bytes: &[u8]) {
        let mut writer = self.0.lock();
        let written = writer.write_all(bytes).and_then(|()| writer.flush());
        if written.is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            std::process::exit(141);
        }
    }

    /// Writes a text.
    pub fn text(&self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Writes a text and a line break.
    pub fn line(&self, text: &str) {
        self.bytes(format!("{text}\n").as_bytes());
    }
}

/// Where bytes for standard input come from.
pub enum Stdin {
    /// The process's.
    Process,
    /// Given.
    Bytes(Vec<u8>),
}

/// The server and the namespace.
pub struct Connection {
    /// Calls.
    pub client: Client,
    /// The transport below it: for raw proxies.
    pub transport: Arc<dyn Transport>,
    /// The server's URL.
    pub server: String,
    /// The namespace of the context.
    pub namespace: String,
}

/// One run of a command.
pub struct App {
    /// Standard output.
    pub out: Sink,
    /// Standard error.
    pub err: Sink,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Background work.
    pub tasks: Tasks,
    /// The flags that all commands share.
    pub args: Args,
    stdin: RefCell<Stdin>,
    connection: OnceCell<Connection>,
    kinds: OnceCell<Kinds>,
}

impl App {
    /// For one run.
    pub fn new(args: Args, out: Sink, err: Sink, stdin: Stdin) -> Self {
        App {
            out,
            err,
            clock: Clock::system(),
            rng: Rng::system(),
            tasks: Tasks::new(),
            args,
            stdin: RefCell::new(stdin),
            connection: OnceCell::new(),
            kinds: OnceCell::new(),
        }
    }

    /// With a server that is already there, for example in this process.
    pub fn over(self, transport: Arc<dyn Transport>, namespace: &str) -> Result<Self, Error> {
        let connection = self.connection_over(transport, "in process", namespace)?;
        Ok(App { connection: OnceCell::new_with(Some(connection)), ..self })
    }

    fn connection_over(
        &self,
        transport: Arc<dyn Transport>,
        server: &str,
        namespace: &str,
    ) -> Result<Connection, Error> {
        let transport: Arc<dyn Transport> = Arc::new(Wire::new(transport, &self.args, self.err.clone())?);
        let client = Client::new(transport.clone(), USER_AGENT, self.clock.clone());
        let (server, namespace) = (server.to_owned(), namespace.to_owned());
        Ok(Connection { client, transport, server, namespace })
    }

    /// The connection; made on first use, without a call to the server.
    pub fn connection(&self) -> Result<&Connection, Error> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection);
        }
        let settings = connect::settings(&self.args)?;
        let (server, namespace) = (settings.server.clone(), settings.namespace.clone());
        let https = Https::new(settings, self.clock.clone(), self.tasks.clone())?;
        let connection = self.connection_over(Arc::new(https), &server, &namespace)?;
        // Nobody else fills the cell between these lines: commands run on one thread.
        let _ = self.connection.set(connection);
        self.connection.get().ok_or_else(|| Error::state("no connection"))
    }

    /// Calls to the server.
    pub fn client(&self) -> Result<&Client, Error> {
        Ok(&self.connection()?.client)
    }

    /// What commands in containers and port-forwards run on.
    pub fn streams(&self) -> Result<Context, Error> {
        Ok(Context {
            client: self.client()?.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            tasks: self.tasks.clone(),
        })
    }

    /// The kinds the server has; asked once.
    pub async fn kinds(&self) -> Result<&Kinds, Error> {
        let fetch = || async {
            let discovery = Discovery::fetch(self.client()?).await?;
            Ok::<_, Error>(Kinds::new(discovery))
        };
        self.kinds.get_or_try_init(fetch).await
    }

    /// The namespace commands work in.
    pub fn namespace(&self) -> Result<String, Error> {
        match self.args.text_if("namespace") {
            Some(namespace) => Ok(namespace.to_owned()),
            None => Ok(self.connection()?.namespace.clone()),
        }
    }

    /// The namespace for a command that need not reach a server.
    pub fn namespace_offline(&self) -> String {
        self.namespace().unwrap_or_else(|_| "default".to_owned())
    }

    /// True when the user named the namespace.
    pub fn namespace_given(&self) -> bool {
        self.args.text_if("namespace").is_some()
    }

    /// The URL of the server, as far as known.
    pub fn server(&self) -> String {
        self.connection.get().map(|connection| connection.server.clone()).unwrap_or_default()
    }

    /// All of standard input.
    pub fn read_stdin(&self) -> Result<Vec<u8>, Error> {
        match &mut *self.stdin.borrow_mut() {
            Stdin::Bytes(bytes) => Ok(std::mem::take(bytes)),
            Stdin::Process => {
                let mut bytes = Vec::new();
                let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes);
                read.map_err(|error| Error::local("reading standard input", error))?;
                Ok(bytes)
            }
        }
    }

    /// Bytes given for standard input, when it is not the process's.
    pub fn given_stdin(&self) -> Option<Vec<u8>> {
        match &mut *self.stdin.borrow_mut() {
            Stdin::Bytes(bytes) => Some(std::mem::take(bytes)),
            Stdin::Process => None,
        }
    }
}

//! `navarch agent`: this machine becomes a node of a cluster that runs elsewhere.
//!
//! What it learns when it joins is kept, so that it starts again without the token, and without the control plane.
//! Its certificates are renewed while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::pki::{Ca, Identity, LiveIdentity, Subject};
use client::kubeconfig::Settings;
use client::{Client, Https, Kubeconfig};
use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::{self, Facts};
use crate::error::CliError;
use crate::node::{NodeArgs, NodeParts};
use crate::pki::{self, Names};
use crate::process::{Process, user_agent, wait_for_end};
use crate::rotating::Rotating;
use crate::token::Token;
use crate::{containerd, down, join, node};

/// How often it is looked whether a certificate is to be renewed.
const LOOK: Duration = Duration::from_secs(60);
/// The cluster is asked for its CA at the first look and every so many after it.
const LOOKS_PER_QUESTION: u32 = 10;
/// A file that asks for new certificates.
const RENEW: &str = "renew";
/// Between tries to get the certificate for the agent's own server.
const AGAIN: Duration = Duration::from_secs(10);
/// Share of its life, in percent, after which a certificate is renewed: upstream's kubelet does so at 70 to 90.
const RENEW_AT_PERCENT: i64 = 75;
/// Life of the certificate that the agent's server shows until it has one of the cluster.
const STOPGAP: Duration = Duration::from_secs(86_400);

/// Flags of `navarch agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Where the node keeps its things.
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The URL of the API server; needed to join, kept afterwards.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The token that `navarch token create` printed; needed to join, not kept.
    #[arg(long, value_name = "TOKEN", env = "NAVARCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The node's own flags.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// What a node that joined keeps.
struct State {
    dir: PathBuf,
}

/// A node that joined.
struct Joined {
    server: String,
    ca: String,
    identity: Identity,
}

impl State {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(name)).ok()?.trim_end().to_owned())
    }

    /// What is kept of an earlier start, if it can still be used.
    fn load(&self, now: Timestamp) -> Option<Joined> {
        let identity = Identity { cert: self.text("client.crt")?, key: self.text("client.key")? };
        let facts = base::pki::describe(&identity.cert).ok()?;
        let joined = Joined { server: self.text("server")?, ca: self.text("ca.crt")?, identity };
        (facts.not_after > now.as_second()).then_some(joined)
    }

    fn save(&self, node: &str, joined: &Joined) -> Result<(), CliError> {
        pki::write(&self.path("node"), node)?;
        pki::write(&self.path("server"), &joined.server)?;
        pki::write(&self.path("ca.crt"), &joined.ca)?;
        self.save_identity("client", &joined.identity)
    }

    fn save_identity(&self, name: &str, identity: &Identity) -> Result<(), CliError> {
        pki::write_private(&self.path(&format!("{name}.key")), &identity.key)?;
        pki::write(&self.path(&format!("{name}.crt")), &identity.cert)
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        let part = |ending: &str| self.text(&format!("{name}.{ending}"));
        Some(Identity { cert: part("crt")?, key: part("key")? })
    }

    fn facts(&self) -> Option<Facts> {
        let data: Value = serde_json::from_str(&self.text("cluster.json")?).ok()?;
        Facts::of_data(&data).ok()
    }
}

/// Joins unless that is done, then runs the node until SIGTERM or SIGINT.
pub async fn run(args: AgentArgs) -> Result<(), CliError> {
    let process = Process::new();
    let names = args.node.names()?;
    let state = State { dir: args.data_dir.join("agent") };
    if args.data_dir.join("pki/ca.key").exists() {
        return Err(CliError::Join {
            what: "starting the agent".to_owned(),
            detail: format!("{} holds a control plane", args.data_dir.display()),
            next: "name another directory with --data-dir, or remove that one with `navarch down`".to_owned(),
        });
    }
    pki::make_private_dir(&args.data_dir)?;
    pki::make_private_dir(&state.dir)?;
    containerd::claim(&args.data_dir)?;
    let joined = known_or_new(&args, &names, &state, &process).await?;
    write_kubeconfig(&args.data_dir, &joined)?;
    let rotating = Rotating::new(https(&joined, &process)?);
    let client = Client::new(Arc::new(rotating.clone()), &user_agent("kubelet"), process.clock.clone());
    let facts = facts(&state, &client).await?;
    let serving = serving(&state, &names, &process)?;
    let informers = process.informers(&client);
    let parts = NodeParts {
        data_dir: args.data_dir.clone(),
        args: args.node.clone(),
        names: names.clone(),
        facts,
        client: client.clone(),
        proxy: informers.clone(),
        pods: informers,
        serving: serving.clone(),
        client_ca: joined.ca.clone(),
        process: process.clone(),
    };
    node::start(parts).await?;
    tracing::info!(node = names.node, server = joined.server, "node started");
    let keeper = Keeper { state, names, client, rotating, serving, joined, process: process.clone() };
    process.tasks.spawn("certificates", keeper.run(args.data_dir.clone()));
    wait_for_end().await;
    tracing::info!("stopping; pods keep running");
    process.end().await;
    let _ = fs::remove_file(down::pid_file(&args.data_dir));
    Ok(())
}

/// What an earlier start has kept, or what joining gives.
async fn known_or_new(
    args: &AgentArgs,
    names: &Names,
    state: &State,
    process: &Process,
) -> Result<Joined, CliError> {
    if let Some(node) = state.text("node").filter(|node| *node != names.node) {
        return Err(CliError::Join {
            what: format!("starting node {}", names.node),
            detail: format!("{} belongs to node {node}", args.data_dir.display()),
            next: format!("start it with --node-name {node}, or remove it with `navarch down`"),
        });
    }
    if let Some(mut joined) = state.load(process.clock.now()) {
        if let Some(server) = &args.server {
            joined.server = server.clone();
        }
        return Ok(joined);
    }
    let missing = |what: &str| CliError::Join {
        what: "joining a cluster".to_owned(),
        detail: format!("--{what} is missing"),
        next: "run `navarch token create` on the control plane; it prints the whole command".to_owned(),
    };
    let server = args.server.clone().ok_or_else(|| missing("server"))?;
    let token = args.token.as_ref().ok_or_else(|| missing("token"))?;
    let token = Token::parse(token).map_err(|why| CliError::Join {
        what: "reading --token".to_owned(),
        detail: why.to_owned(),
        next: "run `navarch token create` on the control plane".to_owned(),
    })?;
    let ca = join::discover(&server, &token, process).await?;
    tracing::info!(server, "the cluster's CA is known");
    let client = join::token_client(&server, &ca, &token, process)?;
    let identity = join::client_certificate(&client, &names.node, process).await?;
    tracing::info!(node = names.node, "joined");
    let joined = Joined { server, ca, identity };
    state.save(&names.node, &joined)?;
    Ok(joined)
}

fn https(joined: &Joined, process: &Process) -> Result<Https, CliError> {
    let settings = Settings {
        server: joined.server.clone(),
        ca: Some(joined.ca.clone()),
        identity: Some(joined.identity.clone()),
        ..Settings::default()
    };
    Ok(Https::new(settings, process.clock.clone(), process.tasks.clone())?)
}

/// For tools on this machine: the API as this node.
fn write_kubeconfig(data_dir: &Path, joined: &Joined) -> Result<(), CliError> {
    let config = Kubeconfig::single("navarch", &joined.server, &joined.ca, Some(&joined.identity), None);
    pki::write_private(&data_dir.join("kubelet.kubeconfig"), &config.to_yaml()?)
}

/// The cluster's facts as it tells them; as they were last time while it does not answer.
async fn facts(state: &State, client: &Client) -> Result<Facts, CliError> {
    match cluster::read(client).await {
        Ok(facts) => {
            pki::write(&state.path("cluster.json"), &facts.to_data().to_string())?;
            Ok(facts)
        }
        Err(error) => match state.facts() {
            Some(facts) => {
                tracing::warn!(%error, "the control plane does not answer; going on with what is known");
                Ok(facts)
            }
            None => Err(error),
        },
    }
}

/// The identity of the agent's server: the one kept, else one of nobody's until the cluster gives one.
fn serving(state: &State, names: &Names, process: &Process) -> Result<LiveIdentity, CliError> {
    let now = process.clock.now();
    let fits = |identity: &Identity| {
        base::pki::describe(&identity.cert).is_ok_and(|facts| {
            facts.not_after > now.as_second() && facts.addresses.contains(&names.addresses[0])
        })
    };
    if let Some(identity) = state.identity("kubelet").filter(fits) {
        return Ok(LiveIdentity::new(&identity)?);
    }
    let _ = fs::remove_file(state.path("kubelet.crt"));
    let ca = Ca::new("navarch-agent", now, STOPGAP, &process.rng)?;
    let subject = Subject { common_name: names.node.clone(), server: true, ..Subject::default() };
    Ok(LiveIdentity::new(&ca.issue(&subject, now, STOPGAP, &process.rng)?)?)
}

/// When a certificate is to be renewed, Unix time; 0 when it cannot be read.
fn renewal(cert: &str) -> i64 {
    base::pki::describe(cert)
        .map_or(0, |facts| facts.not_before + (facts.not_after - facts.not_before) / 100 * RENEW_AT_PERCENT)
}

/// Keeps a node's certificates and its idea of the cluster fresh.
struct Keeper {
    state: State,
    names: Names,
    client: Client,
    rotating: Rotating,
    serving: LiveIdentity,
    joined: Joined,
    process: Process,
}

/// Has a node's agent renew its certificates now; false when the directory has none.
pub fn ask_renewal(data_dir: &Path) -> Result<bool, CliError> {
    let dir = data_dir.join("agent");
    if !dir.join("client.crt").exists() {
        return Ok(false);
    }
    pki::write(&dir.join(RENEW), "").map(|()| true)
}

impl Keeper {
    async fn run(mut self, data_dir: PathBuf) {
        let mut looks = 0;
        loop {
            let mut pause = LOOK;
            let asked = self.state.path(RENEW).exists();
            let told = if looks % LOOKS_PER_QUESTION == 0 { cluster::ca(&self.client).await } else { None };
            let client = self.renew_client(&data_dir, told, asked).await;
            if let Err(error) = &client {
                tracing::warn!(%error, "the node's certificate is not renewed yet");
            }
            let serving = self.renew_serving(asked).await;
            if let Err(error) = &serving {
                tracing::warn!(%error, "the agent's server has no certificate of the cluster yet");
                pause = AGAIN;
            }
            if asked && client.is_ok() && serving.is_ok() {
                let _ = fs::remove_file(self.state.path(RENEW));
            }
            looks += 1;
            self.process.clock.sleep(pause).await;
        }
    }

    async fn renew_client(
        &mut self,
        data_dir: &Path,
        told: Option<String>,
        asked: bool,
    ) -> Result<(), CliError> {
        let now = self.process.clock.now().as_second();
        let changed = told.filter(|ca| *ca != self.joined.ca);
        // A new CA means that certificates of the old one will not be believed for ever.
        let due = asked || changed.is_some() || renewal(&self.joined.identity.cert) <= now;
        if !due {
            return Ok(());
        }
        if let Some(ca) = changed {
            tracing::info!("the cluster's CA has changed");
            self.joined.ca = ca;
            self.rotating.replace(https(&self.joined, &self.process)?);
            let _ = fs::remove_file(self.state.path("kubelet.crt"));
        }
        let made = join::client_certificate(&self.client, &self.names.node, &self.process).await?;
        self.joined.identity = made;
        self.rotating.replace(https(&self.joined, &self.process)?);
        self.state.save(&self.names.node, &self.joined)?;
        tracing::info!("the node's certificate is renewed");
        write_kubeconfig(data_dir, &self.joined)
    }

    async fn renew_serving(&self, asked: bool) -> Result<(), CliError> {
        let due = match self.state.identity("kubelet") {
            Some(identity) => asked || renewal(&identity.cert) <= self.process.clock.now().as_second(),
            None => true,
        };
        if !due {
            return Ok(());
        }
        let (node, address) = (&self.names.node, self.names.addresses[0]);
        let made = join::serving_certificate(&self.client, node, address, &self.process).await?;
        self.serving.replace(&made)?;
        self.state.save_identity("kubelet", &made)?;
        tracing::info!("the agent's server has a new certificate");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_before_their_end() {
        let process = Process::new();
        let (now, day) = (process.clock.now(), Duration::from_secs(86_400));
        let ca = Ca::new("ca", now, 400 * day, &process.rng).expect("a CA");
        let cert = ca.issue(&Subject::default(), now, 100 * day, &process.rng).expect("issued").cert;
        let at = renewal(&cert) - now.as_second();
        assert!((70 * 86_400..80 * 86_400).contains(&at), "{at}");
        assert_eq!(renewal("nonsense"), 0);
    }

    #[test]
    fn what_was_learned_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = State { dir: dir.path().to_owned() };
        let process = Process::new();
        let now = process.clock.now();
        assert!(state.load(now).is_none());
        let ca = Ca::new("ca", now, STOPGAP, &process.rng).expect("a CA");
        let identity = ca.issue(&Subject::default(), now, STOPGAP, &process.rng).expect("issued");
        let joined = Joined { server: "https://a:1".into(), ca: ca.identity().cert.clone(), identity };
        state.save("n1", &joined).expect("saved");
        assert_eq!(state.text("node").as_deref(), Some("n1"));
        assert_eq!(state.load(now).expect("kept").server, "https://a:1");
        assert!(state.load(now + 10 * STOPGAP).is_none(), "an expired certificate is of no use");
    }
}

//! `navarch token`: bootstrap tokens, with which new nodes join.
//!
//! A token is kubeadm's `id.secret`; ours may be followed by `@sha256:` and the digest of the CA's public key, so
//! that one word lets a new node know the cluster and the cluster know the node. Must not know how a node joins.

use std::time::Duration;

use api::Gvr;
use base::{Rng, pki};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, DeleteOptions, ListOptions, WriteOptions};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::cluster;
use crate::error::CliError;
use crate::process::{ConnectArgs, Process};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const SECRET_PREFIX: &str = "bootstrap-token-";
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const PIN_MARK: &str = "@sha256:";

/// `navarch token`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token and print the command with which another machine joins.
    Create(CreateArgs),
    /// Show the tokens.
    List(ConnectArgs),
    /// Delete tokens: nobody joins with them any more. Nodes that joined stay.
    Delete {
        /// Whose tokens.
        #[command(flatten)]
        connect: ConnectArgs,
        /// The tokens, or their first six characters.
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

/// Flags of `navarch token create`.
#[derive(Clone, Debug, clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How long it can be used, such as 30m or 24h; 0 for ever.
    #[arg(long, default_value = "24h", value_parser = crate::flags::duration, value_name = "DURATION")]
    ttl: Duration,
    /// What it is for.
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Print the token alone.
    #[arg(long)]
    quiet: bool,
}

/// A token as a new node is given it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// Its secret part.
    pub secret: String,
    /// The SHA-256 digest of the public key of the cluster's CA.
    pub pin: Option<[u8; 32]>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret never reaches a log.
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// A new one without a pin.
    pub fn random(rng: &Rng) -> Token {
        let word = |length: usize| -> String {
            let one = |_| char::from(ALPHABET[rng.below(ALPHABET.len() as u64) as usize]);
            (0..length).map(one).collect()
        };
        Token { id: word(ID_LENGTH), secret: word(SECRET_LENGTH), pin: None }
    }

    /// Reads a token; the error says what it should look like, without repeating it.
    pub fn parse(text: &str) -> Result<Token, &'static str> {
        const FORM: &str =
            "a token looks like abcdef.0123456789abcdef or abcdef.0123456789abcdef@sha256:<64 hex digits>";
        let (token, pin) = match text.trim().split_once(PIN_MARK) {
            Some((token, pin)) => (token, Some(unhex(pin).ok_or(FORM)?)),
            None => (text.trim(), None),
        };
        let (id, secret) = token.split_once('.').ok_or(FORM)?;
        let fits =
            |text: &str, length| text.len() == length && text.bytes().all(|byte| ALPHABET.contains(&byte));
        if !fits(id, ID_LENGTH) || !fits(secret, SECRET_LENGTH) {
            return Err(FORM);
        }
        Ok(Token { id: id.to_owned(), secret: secret.to_owned(), pin })
    }

    /// What the API server is shown.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Everything, pin included.
    pub fn full(&self) -> String {
        let pin = self.pin.map(|pin| format!("{PIN_MARK}{}", hex(&pin))).unwrap_or_default();
        format!("{}{pin}", self.bearer())
    }
}

/// The pin of a CA: the digest of its public key.
pub fn pin_of(certificate: &rustls_pki_types::CertificateDer<'_>) -> Result<[u8; 32], pki::PkiError> {
    let key = pki::public_key(certificate)?;
    Ok(digest(&SHA256, &key).as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn secrets() -> Gvr {
    Gvr::new("", "v1", "secrets")
}

/// The Secret of a token.
fn secret(token: &Token, description: &str, expires: Option<Timestamp>) -> Value {
    let mut data = json!({
        "token-id": token.id, "token-secret": token.secret, "auth-extra-groups": cluster::JOINERS,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
    });
    if let Some(at) = expires {
        data["expiration"] = api::time::format(at).into();
    }
    if !description.is_empty() {
        data["description"] = description.into();
    }
    let meta = json!({"name": format!("{SECRET_PREFIX}{}", token.id), "namespace": NAMESPACE});
    json!({"apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE, "metadata": meta, "stringData": data})
}

/// Runs `navarch token …`.
pub async fn run(command: TokenCommand) -> Result<(), CliError> {
    let process = Process::new();
    match command {
        TokenCommand::Create(args) => create(&args, &process).await,
        TokenCommand::List(connect) => list(&connect, &process).await,
        TokenCommand::Delete { connect, tokens } => delete(&connect, &tokens, &process).await,
    }
}

async fn create(args: &CreateArgs, process: &Process) -> Result<(), CliError> {
    let expires = (!args.ttl.is_zero()).then(|| process.clock.now() + args.ttl);
    let config = args.connect.config()?;
    let settings = config.settings(None)?;
    let client = process.client_of(&config, "navarch-token")?;
    let mut token = Token::random(&process.rng);
    let authorities = pki::certificates(settings.ca.as_deref().unwrap_or(""))?;
    token.pin = authorities.first().map(pin_of).transpose()?;
    let object = secret(&token, &args.description, expires);
    let _: Value = client.create_at(&secrets(), NAMESPACE, &object, &WriteOptions::default()).await?;
    if args.quiet {
        println!("{}", token.full());
        return Ok(());
    }
    let server = public_server(&client).await.unwrap_or(settings.server);
    println!("On the machine that is to join, as root:\n");
    println!("    navarch agent --server {server} --token {}\n", token.full());
    match expires {
        Some(at) => println!("The token works until {}.", api::time::format(at)),
        None => println!("The token works until it is deleted: navarch token delete {}", token.id),
    }
    Ok(())
}

/// Where nodes reach the API server, as the cluster says.
async fn public_server(client: &Client) -> Option<String> {
    let data = cluster::info(client).await.ok()?;
    let config = client::Kubeconfig::parse(data["kubeconfig"].as_str()?).ok()?;
    Some(config.settings(None).ok()?.server)
}

fn field(secret: &Value, name: &str) -> String {
    let encoded = secret["data"][name].as_str().unwrap_or("");
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

async fn list(connect: &ConnectArgs, process: &Process) -> Result<(), CliError> {
    let client = process.client_of(&connect.config()?, "navarch-token")?;
    let options = ListOptions { fields: format!("type={SECRET_TYPE}"), ..ListOptions::default() };
    let found = client.list_at::<Value>(&secrets(), NAMESPACE, &options, false).await?;
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(found.items.iter().map(|secret| row(secret, process.clock.now())));
    print!("{}", table(&rows));
    Ok(())
}

fn row(secret: &Value, now: Timestamp) -> [String; 5] {
    let expires = field(secret, "expiration");
    let left = match api::time::parse(&expires) {
        None => "forever".to_owned(),
        Some(at) if at < now => "expired".to_owned(),
        Some(at) => {
            let seconds = at.duration_since(now).as_secs();
            format!("{}h{}m", seconds / 3600, seconds % 3600 / 60)
        }
    };
    let usages: Vec<&str> = ["authentication", "signing"]
        .into_iter()
        .filter(|usage| field(secret, &format!("usage-bootstrap-{usage}")) == "true")
        .collect();
    let expires = if expires.is_empty() { "never".to_owned() } else { expires };
    let token = format!("{}.{}", field(secret, "token-id"), field(secret, "token-secret"));
    [token, left, expires, usages.join(","), field(secret, "description")]
}

/// Rows with their columns below each other.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    out
}

async fn delete(connect: &ConnectArgs, tokens: &[String], process: &Process) -> Result<(), CliError> {
    let client = process.client_of(&connect.config()?, "navarch-token")?;
    for token in tokens {
        let id = token.split(['.', '@']).next().unwrap_or(token);
        let name = format!("{SECRET_PREFIX}{id}");
        client.delete_at(&secrets(), NAMESPACE, &name, &DeleteOptions::default()).await?;
        println!("token {id} deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::meta::ObjectExt as _;

    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let mut token = Token::random(&Rng::seeded(1));
        assert_eq!(Token::parse(&token.full()), Ok(token.clone()));
        token.pin = Some([0xab; 32]);
        assert_eq!(Token::parse(&token.full()), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
        for wrong in
            ["", "abcdef", "abcdef.0123", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef@sha256:12"]
        {
            assert!(Token::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_shown() {
        let token = Token::parse("abcdef.0123456789abcdef").expect("a token");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let made = secret(&token, "for tests", Some(now + Duration::from_secs(5400)));
        let mut stored = made.clone();
        let data = made["stringData"].as_object().expect("data").iter();
        stored["data"] = data
            .map(|(key, text)| (key.clone(), json!(STANDARD.encode(text.as_str().unwrap_or("")))))
            .collect();
        assert_eq!(
            table(&[row(&stored, now)]),
            "abcdef.0123456789abcdef   1h30m   2030-01-01T01:30:00Z   authentication,signing   for tests\n"
        );
        assert_eq!(made.name(), "bootstrap-token-abcdef");
    }
}

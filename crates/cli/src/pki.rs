//! The keys and certificates of a cluster, made once and renewed when they near their end.
//!
//! Laid out as kubeadm lays out `/etc/kubernetes/pki`, so that people find what they look for.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::pki::{Ca, Identity, LiveIdentity, Subject};
use base::{Clock, Rng};

use crate::error::CliError;

const DAY: Duration = Duration::from_secs(86_400);
/// Authorities last ten years.
const CA_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// Everything they sign lasts one year and is renewed at start in its last 120 days.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// The authority's certificate by its predecessor.
const CROSS: &str = "ca-cross.crt";

/// What certificates must name.
#[derive(Clone, Debug)]
pub struct Names {
    /// The node's name.
    pub node: String,
    /// Addresses clients reach the API server at, the first the node's own.
    pub addresses: Vec<IpAddr>,
    /// Further DNS names of the API server.
    pub dns_names: Vec<String>,
}

/// A cluster's keys, all PEM.
pub struct Pki {
    /// The directory they lie in.
    pub dir: PathBuf,
    /// The cluster's authority.
    pub ca: Ca,
    /// The authority of the aggregation layer.
    pub front_proxy_ca: Ca,
    /// The API server's serving certificate.
    pub apiserver: LiveIdentity,
    /// The API server as a client of agents.
    pub apiserver_kubelet_client: LiveIdentity,
    /// The API server as a client of aggregated servers.
    pub front_proxy_client: LiveIdentity,
    /// The administrator's certificate.
    pub admin: LiveIdentity,
    /// The key that signs service-account tokens.
    pub service_account_key: String,
    /// The authority's certificate by its predecessor, PEM; empty when nobody needs it.
    cross: String,
}

/// Where keys are read, made and written.
struct Keeper<'a> {
    dir: &'a Path,
    /// Goes with certificates of the authority: who knows its predecessor only can follow.
    cross: &'a str,
    clock: &'a Clock,
    rng: &'a Rng,
}

impl Keeper<'_> {
    fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")))
    }

    fn load(&self, name: &str) -> Option<Identity> {
        let (cert, key) = self.paths(name);
        Some(Identity { cert: fs::read_to_string(cert).ok()?, key: fs::read_to_string(key).ok()? })
    }

    fn save(&self, name: &str, identity: &Identity) -> Result<(), CliError> {
        let (cert, key) = self.paths(name);
        write_private(&key, &identity.key)?;
        write(&cert, &identity.cert)
    }

    fn ca(&self, name: &str, common_name: &str) -> Result<Ca, CliError> {
        if let Some(identity) = self.load(name) {
            return Ok(Ca::from_pem(identity)?);
        }
        let ca = Ca::new(common_name, self.clock.now(), CA_LIFETIME, self.rng)?;
        self.save(name, ca.identity())?;
        Ok(ca)
    }

    fn leaf(&self, name: &str, ca: &Ca, subject: &Subject) -> Result<LiveIdentity, CliError> {
        let issuer = base::pki::describe(&ca.identity().cert)?.common_name;
        let fits = |found: &Identity| self.still_fits(found, subject, &issuer);
        if let Some(identity) = self.load(name).filter(fits) {
            return Ok(LiveIdentity::new(&identity)?);
        }
        let mut identity = ca.issue(subject, self.clock.now(), LEAF_LIFETIME, self.rng)?;
        if base::pki::describe(self.cross).is_ok_and(|cross| cross.common_name == issuer) {
            identity.cert.push_str(self.cross);
        }
        self.save(name, &identity)?;
        Ok(LiveIdentity::new(&identity)?)
    }

    /// True while a certificate has a third of its life left, names what it must, and is of this authority.
    fn still_fits(&self, identity: &Identity, subject: &Subject, issuer: &str) -> bool {
        let soon = self.clock.now() + 120 * DAY;
        base::pki::describe(&identity.cert).is_ok_and(|facts| {
            facts.not_after > soon.as_second()
                && facts.issuer == issuer
                && subject.addresses.iter().all(|address| facts.addresses.contains(address))
                && subject.dns_names.iter().all(|name| facts.dns_names.contains(name))
        })
    }
}

/// What the API server's certificate must name besides its addresses.
fn apiserver_subject(names: &Names, service_ip: IpAddr, domain: &str) -> Subject {
    let mut dns_names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).into();
    dns_names.extend([format!("kubernetes.default.svc.{domain}"), names.node.clone()]);
    dns_names.extend(names.dns_names.iter().cloned());
    dns_names.sort();
    dns_names.dedup();
    let mut addresses = vec![service_ip, IpAddr::from([127, 0, 0, 1]), "::1".parse().expect("an address")];
    addresses.extend(&names.addresses);
    addresses.dedup();
    Subject { common_name: "kube-apiserver".into(), dns_names, addresses, server: true, ..Subject::default() }
}

fn client_subject(name: &str, group: Option<&str>) -> Subject {
    Subject {
        common_name: name.into(),
        organization: group.map(str::to_owned),
        client: true,
        ..Subject::default()
    }
}

/// Reads the cluster's keys from `dir`, making what is missing or about to expire. `service_ip` is the API
/// server's address in the cluster, `domain` the cluster's DNS domain.
pub fn ensure(
    dir: &Path,
    names: &Names,
    service_ip: IpAddr,
    domain: &str,
    clock: &Clock,
    rng: &Rng,
) -> Result<Pki, CliError> {
    make_private_dir(dir)?;
    let cross = fs::read_to_string(dir.join(CROSS)).unwrap_or_default();
    let keeper = Keeper { dir, cross: &cross, clock, rng };
    let ca = keeper.ca("ca", "kubernetes")?;
    let front_proxy_ca = keeper.ca("front-proxy-ca", "front-proxy-ca")?;
    let sa_path = dir.join("sa.key");
    let service_account_key = match fs::read_to_string(&sa_path) {
        Ok(key) => key,
        Err(_) => {
            let key = base::pki::new_key_pem()?;
            write_private(&sa_path, &key)?;
            key
        }
    };
    let masters = Some("system:masters");
    let (kubelet_client, admin) = ("kube-apiserver-kubelet-client", "kubernetes-admin");
    let (kubelet_client, admin) = (client_subject(kubelet_client, masters), client_subject(admin, masters));
    let front = client_subject("front-proxy-client", None);
    Ok(Pki {
        apiserver: keeper.leaf("apiserver", &ca, &apiserver_subject(names, service_ip, domain))?,
        apiserver_kubelet_client: keeper.leaf("apiserver-kubelet-client", &ca, &kubelet_client)?,
        front_proxy_client: keeper.leaf("front-proxy-client", &front_proxy_ca, &front)?,
        admin: keeper.leaf("admin", &ca, &admin)?,
        dir: dir.to_owned(),
        ca,
        front_proxy_ca,
        service_account_key,
        cross: cross.clone(),
    })
}

impl Pki {
    /// The serving certificate of this machine's own agent, kept in `dir`.
    pub fn agent(
        &self,
        dir: &Path,
        names: &Names,
        clock: &Clock,
        rng: &Rng,
    ) -> Result<LiveIdentity, CliError> {
        make_private_dir(dir)?;
        let server = Subject {
            common_name: format!("system:node:{}", names.node),
            organization: Some("system:nodes".into()),
            dns_names: vec![names.node.clone()],
            addresses: names.addresses.clone(),
            server: true,
            ..Subject::default()
        };
        Keeper { dir, cross: &self.cross, clock, rng }.leaf("kubelet", &self.ca, &server)
    }

    /// Takes over what another look at the files has found or made.
    pub fn renew(&self, newer: &Pki) -> Result<bool, CliError> {
        let pairs = [
            (&self.apiserver, &newer.apiserver),
            (&self.apiserver_kubelet_client, &newer.apiserver_kubelet_client),
            (&self.front_proxy_client, &newer.front_proxy_client),
            (&self.admin, &newer.admin),
        ];
        let mut changed = false;
        for (live, newer) in pairs {
            changed |= take(live, newer)?;
        }
        Ok(changed)
    }
}

/// True for the files that `navarch certs rotate` leaves alone.
pub fn is_authority(file: &str) -> bool {
    matches!(file, "ca.crt" | "front-proxy-ca.crt" | CROSS)
}

/// Gives a cluster a new authority. The old one stays trusted, and vouches for the new one towards who does not
/// know that yet: nothing breaks, in whatever order machines and pods hear of it.
pub fn rotate_ca(dir: &Path, clock: &Clock, rng: &Rng) -> Result<(), CliError> {
    let keeper = Keeper { dir, cross: "", clock, rng };
    let old = keeper.ca("ca", "kubernetes")?;
    if base::pki::certificates(&old.identity().cert)?.len() > 1 {
        return Err(CliError::Join {
            what: "making a new authority".to_owned(),
            detail: "an earlier change is not complete".to_owned(),
            next: "first `navarch certs forget-ca`, when every node has a new certificate".to_owned(),
        });
    }
    let now = clock.now();
    let new = Ca::new(&format!("kubernetes-{}", now.as_second()), now, CA_LIFETIME, rng)?;
    write(&dir.join(CROSS), &old.cross_sign(&new, now, CA_LIFETIME, rng)?)?;
    let both = format!("{}{}", new.identity().cert, old.identity().cert);
    keeper.save("ca", &Identity { cert: both, key: new.identity().key.clone() })
}

/// Trusts the newest authority only; how many were forgotten.
pub fn forget_ca(dir: &Path) -> Result<usize, CliError> {
    let path = dir.join("ca.crt");
    let text = fs::read_to_string(&path).map_err(|source| CliError::file("read", &path, source))?;
    let known = base::pki::certificates(&text)?.len();
    const END: &str = "-----END CERTIFICATE-----\n";
    let first = text.find(END).map_or(text.as_str(), |at| &text[..at + END.len()]);
    write(&path, first)?;
    let _ = fs::remove_file(dir.join(CROSS));
    Ok(known.saturating_sub(1))
}

/// Shows `newer` from now on, if it differs.
pub fn take(live: &LiveIdentity, newer: &LiveIdentity) -> Result<bool, CliError> {
    let newer = newer.now();
    if live.now().cert == newer.cert {
        return Ok(false);
    }
    live.replace(&newer)?;
    Ok(true)
}

/// Makes a directory only its owner can enter.
pub fn make_private_dir(dir: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CliError::file("create", dir, source))
}

/// Writes a file anyone may read, whole or not at all.
pub fn write(path: &Path, content: &str) -> Result<(), CliError> {
    write_mode(path, content, 0o644)
}

/// Writes a file only its owner may read, whole or not at all.
pub fn write_private(path: &Path, content: &str) -> Result<(), CliError> {
    write_mode(path, content, 0o600)
}

fn write_mode(path: &Path, content: &str, mode: u32) -> Result<(), CliError> {
    let error = |source| CliError::file("write", path, source);
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let mut file = opened.map_err(error)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(error)?;
    fs::rename(&temporary, path).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_renewed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (clock, rng) = (Clock::system(), Rng::seeded(1));
        let mut names = Names { node: "n1".into(), addresses: vec![[10, 1, 2, 3].into()], dns_names: vec![] };
        let make = |names: &Names| {
            ensure(dir.path(), names, [10, 96, 0, 1].into(), "cluster.local", &clock, &rng).expect("keys")
        };
        let cert = |live: &LiveIdentity| live.now().cert;
        let first = make(&names);
        let again = make(&names);
        assert_eq!(cert(&first.apiserver), cert(&again.apiserver));
        assert_eq!(first.service_account_key, again.service_account_key);
        names.addresses.push([10, 9, 9, 9].into());
        let moved = make(&names);
        assert_ne!(cert(&first.apiserver), cert(&moved.apiserver), "a new address needs a new certificate");
        assert_eq!(cert(&first.admin), cert(&moved.admin));
        assert!(first.renew(&moved).expect("taken over") && !first.renew(&moved).expect("nothing to do"));
        assert_eq!(cert(&first.apiserver), cert(&moved.apiserver));
        let facts = base::pki::describe(&cert(&moved.apiserver)).expect("readable");
        assert!(facts.dns_names.contains(&"kubernetes.default.svc.cluster.local".to_owned()));
        rotate_ca(dir.path(), &clock, &rng).expect("a new authority");
        let after = make(&names);
        let chain = base::pki::describe_all(&cert(&after.apiserver)).expect("readable");
        assert_eq!(chain.len(), 2, "the server shows that its authority is the old one's successor");
        assert_eq!(
            (chain[0].issuer.as_str(), chain[1].issuer.as_str()),
            (chain[1].common_name.as_str(), "kubernetes")
        );
        assert_eq!(base::pki::certificates(&after.ca.identity().cert).expect("PEM").len(), 2);
        assert!(rotate_ca(dir.path(), &clock, &rng).is_err(), "one change at a time");
        assert_eq!(forget_ca(dir.path()).expect("forgotten"), 1);
        assert_eq!(cert(&make(&names).apiserver), cert(&after.apiserver));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join("ca.key")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

//! Configuration: upstream's flags, and the settings made of them. It must not know requests.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base::pki::{Identity, LiveIdentity};
use clap::Args;
use ipnet::IpNet;
use serde_json::{Value, json};

/// Flags of kube-apiserver that are taken, so that its command lines work, and have no effect: those with a value,
/// then those that may stand alone.
macro_rules! accepted {
    ([$($value:ident),* $(,)?], [$($switch:ident),* $(,)?]) => {
        /// Accepted for command lines written for kube-apiserver; none has an effect.
        #[derive(Args, Clone, Debug)]
        #[allow(missing_docs, reason = "they do nothing")]
        pub struct Accepted {
            $(#[arg(long, hide = true)] pub $value: Vec<String>,)*
            $(#[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")] pub $switch: Option<String>,)*
            /// Accepted for scripts; has no effect.
            #[arg(long, short = 'v', hide = true)]
            pub v: Option<u32>,
        }
    };
}

accepted!(
    [
        admission_control_config_file,
        apiserver_count,
        audit_log_batch_buffer_size,
        audit_log_format,
        audit_log_maxage,
        audit_log_mode,
        audit_log_truncate_max_event_size,
        audit_log_version,
        authentication_token_webhook_cache_ttl,
        authentication_token_webhook_version,
        authorization_webhook_cache_authorized_ttl,
        authorization_webhook_cache_unauthorized_ttl,
        authorization_webhook_version,
        cloud_config,
        cloud_provider,
        cors_allowed_origins,
        default_not_ready_toleration_seconds,
        default_unreachable_toleration_seconds,
        default_watch_cache_size,
        delete_collection_workers,
        disabled_metrics,
        emulated_version,
        endpoint_reconciler_type,
        etcd_cafile,
        etcd_certfile,
        etcd_compaction_interval,
        etcd_count_metric_poll_period,
        etcd_db_metric_poll_interval,
        etcd_healthcheck_timeout,
        etcd_keyfile,
        etcd_prefix,
        etcd_readycheck_timeout,
        etcd_servers_overrides,
        event_ttl,
        external_hostname,
        feature_gates,
        goaway_chance,
        http2_max_streams_per_connection,
        kubelet_port,
        kubelet_timeout,
        kubernetes_service_node_port,
        lease_reuse_duration_seconds,
        livez_grace_period,
        log_flush_frequency,
        logging_format,
        max_connection_bytes_per_sec,
        min_compatibility_version,
        min_request_timeout,
        oidc_signing_algs,
        peer_advertise_ip,
        peer_advertise_port,
        peer_ca_file,
        request_timeout,
        requestheader_uid_headers,
        runtime_config,
        service_account_max_token_expiration,
        show_hidden_metrics_for_version,
        shutdown_delay_duration,
        storage_backend,
        storage_media_type,
        strict_transport_security_directives,
        target_ram_mb,
        tls_cipher_suites,
        tls_curve_preferences,
        tls_min_version,
        tls_sni_cert_key,
        tracing_config_file,
        vmodule,
        watch_cache_sizes,
    ],
    [
        aggregator_reject_forwarding_redirects,
        contention_profiling,
        debug_socket_path,
        enable_garbage_collector,
        enable_logs_handler,
        enable_priority_and_fairness,
        encryption_provider_config_automatic_reload,
        permit_address_sharing,
        permit_port_sharing,
        profiling,
        service_account_extend_token_expiration,
        service_account_lookup,
        shutdown_send_retry_after,
        watch_cache,
    ]
);

/// The flags of `navarch apiserver`, named as kube-apiserver's.
#[derive(Args, Clone, Debug)]
#[allow(missing_docs, reason = "each flag carries its help")]
pub struct Flags {
    /// The port on which to serve HTTPS.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The address on which to listen.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The address on which members of the cluster reach the server.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Where certificates are kept.
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// The serving certificate (PEM).
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key (PEM).
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Client certificates signed by one of these authorities authenticate.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// CSV of token,user,uid,"group1,group2".
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Keys that verify service-account tokens (PEM); may be repeated.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The key that signs service-account tokens (PEM).
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// The issuer of service-account tokens; the first signs.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// URI of the JSON web key set, for the discovery document.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Audiences of this API; the issuer when absent.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// etcd servers; the embedded store when absent.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Addresses for services, at most one range per family.
    #[arg(long, default_value = "10.96.0.0/12", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Ports for services of type NodePort.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Authorizers, in order.
    #[arg(long, default_value = "Node,RBAC", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// Requests without credentials pass as system:anonymous.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// Admission plugins beside the default ones.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to leave out.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// The client certificate shown to agents.
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// The authority that agents' serving certificates must be from; unchecked when absent.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Node address types, preferred first.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
    )]
    pub kubelet_preferred_address_types: Vec<String>,
    /// The client certificate shown to aggregated API servers.
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// The authority of front proxies.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Names that a front proxy's certificate may carry.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers that carry the user's name.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers that carry the user's groups.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers that carry further facts of the user.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// What is encrypted on disk, with which keys (an EncryptionConfiguration).
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Issuers of tokens and anonymous access (an AuthenticationConfiguration).
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// URL of an OpenID issuer; the older way to name one.
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    /// The audience that its tokens must be for.
    #[arg(long, default_value = "")]
    pub oidc_client_id: String,
    /// The claim that names the user.
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What goes before the user's name; `-` for nothing, the issuer's URL when absent.
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    /// The claim that names the user's groups.
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    /// What goes before the groups' names.
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// The issuer's certificate authority.
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claims that its tokens must have, as key=value.
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// A kubeconfig of the webhook that knows tokens.
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// A kubeconfig of the webhook that knows rights (mode Webhook).
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Which authorizers decide, in which order, with webhooks under conditions (an AuthorizationConfiguration).
    #[arg(long, conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub authorization_config: Option<PathBuf>,
    /// Bootstrap tokens authenticate.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, default_value_t = false)]
    pub enable_bootstrap_token_auth: bool,
    /// Reading requests at work at one time.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Changing requests at work at one time.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Accepted for scripts written for kube-apiserver; always allowed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, default_value_t = true)]
    pub allow_privileged: bool,
    /// Accepted for scripts; the server takes part in aggregation anyway.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "false", action = clap::ArgAction::Set, default_value_t = false)]
    pub enable_aggregator_routing: bool,
    /// What the audit log tells of which requests (a Policy of audit.k8s.io/v1).
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// Where the audit log goes; `-` is standard output.
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which a new audit log begins; 0 means never.
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxsize: u64,
    /// Old audit logs that are kept; 0 means all.
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// What upstream's server knows and this one has no use for.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Serving certificate and key.
    pub identity: Option<LiveIdentity>,
    /// Authorities of client certificates, PEM.
    pub client_ca: Option<String>,
    /// Text of the token file.
    pub tokens: String,
    /// Public keys or certificates that verify service-account tokens, PEM.
    pub service_account_keys: Vec<String>,
    /// The key that signs service-account tokens, PEM.
    pub service_account_signing_key: Option<String>,
    /// Issuers of service-account tokens; the first signs.
    pub issuers: Vec<String>,
    /// URI of the key set in the discovery document.
    pub jwks_uri: Option<String>,
    /// Audiences of this API.
    pub audiences: Vec<String>,
    /// Addresses for services.
    pub service_ranges: Vec<IpNet>,
    /// Lowest and highest node port.
    pub node_ports: (u16, u16),
    /// Authorizers, in order.
    pub authorizers: Vec<String>,
    /// Requests without credentials pass as system:anonymous.
    pub anonymous: bool,
    /// Bootstrap tokens authenticate.
    pub bootstrap_tokens: bool,
    /// Admission plugins beside the default ones.
    pub admission_on: Vec<String>,
    /// Admission plugins left out.
    pub admission_off: Vec<String>,
    /// The client certificate shown to agents.
    pub kubelet_client: Option<LiveIdentity>,
    /// The authority of agents' serving certificates, PEM.
    pub kubelet_ca: Option<String>,
    /// Node address types, preferred first.
    pub address_types: Vec<String>,
    /// The client certificate shown to aggregated API servers.
    pub proxy_client: Option<LiveIdentity>,
    /// The authority of front proxies, PEM.
    pub requestheader_ca: Option<String>,
    /// Names that a front proxy's certificate may carry; any when empty.
    pub requestheader_names: Vec<String>,
    /// Headers of a front proxy: users, groups, prefixes of extra facts.
    pub requestheaders: [Vec<String>; 3],
    /// Where the cluster reaches this server: endpoints of default/kubernetes.
    pub advertise: Option<(IpAddr, u16)>,
    /// Reading requests at work at one time.
    pub max_requests_inflight: usize,
    /// Changing requests at work at one time.
    pub max_mutating_requests_inflight: usize,
    /// What is encrypted on disk: the store's options are to have it, too.
    pub encryption: Option<Arc<crate::encryption::Sealer>>,
    /// Text of the AuthenticationConfiguration.
    pub authentication: Option<String>,
    /// Text of the kubeconfig of the webhook that knows tokens.
    pub token_webhook: Option<String>,
    /// Text of the kubeconfig of the webhook that knows rights.
    pub authorization_webhook: Option<String>,
    /// Text of the AuthorizationConfiguration.
    pub authorization: Option<String>,
    /// This machine's certificate authorities, for what names none of its own.
    pub system_ca: Option<String>,
    /// Text of the audit policy.
    pub audit_policy: Option<String>,
    /// Where the audit log goes.
    pub audit_log: Option<crate::audit::Log>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            identity: None,
            client_ca: None,
            tokens: String::new(),
            service_account_keys: Vec::new(),
            service_account_signing_key: None,
            issuers: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            jwks_uri: None,
            audiences: Vec::new(),
            service_ranges: vec!["10.96.0.0/12".parse().expect("a network")],
            node_ports: (30_000, 32_767),
            authorizers: vec!["Node".to_owned(), "RBAC".to_owned()],
            anonymous: true,
            bootstrap_tokens: true,
            admission_on: Vec::new(),
            admission_off: Vec::new(),
            kubelet_client: None,
            kubelet_ca: None,
            address_types: ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"]
                .map(str::to_owned)
                .to_vec(),
            proxy_client: None,
            requestheader_ca: None,
            requestheader_names: Vec::new(),
            requestheaders: ["X-Remote-User", "X-Remote-Group", "X-Remote-Extra-"]
                .map(|name| vec![name.to_owned()]),
            advertise: None,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            encryption: None,
            authentication: None,
            token_webhook: None,
            authorization_webhook: None,
            authorization: None,
            system_ca: None,
            audit_policy: None,
            audit_log: None,
        }
    }
}

/// Why flags could not become a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A flag's value is wrong.
    #[error("--{flag}: {detail}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        detail: String,
    },
}

fn read(path: &Option<PathBuf>) -> Result<Option<String>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    std::fs::read_to_string(path).map(Some).map_err(|source| ConfigError::File { path: path.clone(), source })
}

fn identity(
    flag: &'static str,
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Result<Option<LiveIdentity>, ConfigError> {
    let Some((cert, key)) = read(cert)?.zip(read(key)?) else { return Ok(None) };
    let live = LiveIdentity::new(&Identity { cert, key });
    live.map(Some).map_err(|error| ConfigError::Flag { flag, detail: error.to_string() })
}

fn sealer(flags: &Flags) -> Result<Option<Arc<crate::encryption::Sealer>>, ConfigError> {
    let Some(text) = read(&flags.encryption_provider_config)? else { return Ok(None) };
    let wrong = |detail| ConfigError::Flag { flag: "encryption-provider-config", detail };
    crate::encryption::Sealer::parse(&text).map(|sealer| Some(Arc::new(sealer))).map_err(wrong)
}

fn audit_log(flags: &Flags) -> Option<crate::audit::Log> {
    let path = flags.audit_log_path.clone()?;
    let (max_bytes, backups) = (flags.audit_log_maxsize << 20, flags.audit_log_maxbackup);
    Some(crate::audit::Log { path, max_bytes, backups })
}

/// Where Debian and its like keep the certificate authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The older flags as an AuthenticationConfiguration.
fn issuer_of_flags(flags: &Flags) -> Result<Option<String>, ConfigError> {
    let Some(url) = &flags.oidc_issuer_url else { return Ok(None) };
    let prefix = match flags.oidc_username_prefix.as_str() {
        "-" => String::new(),
        "" if flags.oidc_username_claim == "email" => String::new(),
        "" => format!("{url}#"),
        prefix => prefix.to_owned(),
    };
    let rules: Vec<Value> = flags
        .oidc_required_claim
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(claim, value)| json!({"claim": claim, "requiredValue": value}))
        .collect();
    let mut issuer = json!({"url": url, "audiences": [flags.oidc_client_id]});
    if let Some(ca) = read(&flags.oidc_ca_file)? {
        issuer["certificateAuthority"] = ca.into();
    }
    let mut mappings = json!({"username": {"claim": flags.oidc_username_claim, "prefix": prefix}});
    if !flags.oidc_groups_claim.is_empty() {
        mappings["groups"] = json!({"claim": flags.oidc_groups_claim, "prefix": flags.oidc_groups_prefix});
    }
    let jwt = json!({"issuer": issuer, "claimValidationRules": rules, "claimMappings": mappings});
    let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt]});
    Ok(Some(document.to_string()))
}

impl Config {
    /// Reads the files that the flags name.
    pub fn from_flags(flags: &Flags) -> Result<Config, ConfigError> {
        let ports = flags.service_node_port_range.split_once('-').and_then(|(low, high)| {
            Some((low.trim().parse::<u16>().ok()?, high.trim().parse::<u16>().ok()?))
        });
        let bad =
            || ConfigError::Flag { flag: "service-node-port-range", detail: "must be LOW-HIGH".to_owned() };
        let mut keys = Vec::new();
        for path in &flags.service_account_key_file {
            keys.extend(read(&Some(path.clone()))?);
        }
        let address = flags.advertise_address.or(Some(flags.bind_address).filter(|ip| !ip.is_unspecified()));
        Ok(Config {
            identity: identity("tls-cert-file", &flags.tls_cert_file, &flags.tls_private_key_file)?,
            client_ca: read(&flags.client_ca_file)?,
            tokens: read(&flags.token_auth_file)?.unwrap_or_default(),
            service_account_keys: keys,
            service_account_signing_key: read(&flags.service_account_signing_key_file)?,
            issuers: flags.service_account_issuer.clone(),
            jwks_uri: flags.service_account_jwks_uri.clone(),
            audiences: flags.api_audiences.clone(),
            service_ranges: flags.service_cluster_ip_range.clone(),
            node_ports: ports.filter(|p| p.0 > 0 && p.0 <= p.1).ok_or_else(bad)?,
            authorizers: flags.authorization_mode.clone(),
            anonymous: flags.anonymous_auth,
            bootstrap_tokens: flags.enable_bootstrap_token_auth,
            admission_on: flags.enable_admission_plugins.clone(),
            admission_off: flags.disable_admission_plugins.clone(),
            kubelet_client: identity(
                "kubelet-client-certificate",
                &flags.kubelet_client_certificate,
                &flags.kubelet_client_key,
            )?,
            kubelet_ca: read(&flags.kubelet_certificate_authority)?,
            address_types: flags.kubelet_preferred_address_types.clone(),
            proxy_client: identity(
                "proxy-client-cert-file",
                &flags.proxy_client_cert_file,
                &flags.proxy_client_key_file,
            )?,
            requestheader_ca: read(&flags.requestheader_client_ca_file)?,
            requestheader_names: flags.requestheader_allowed_names.clone(),
            requestheaders: [
                flags.requestheader_username_headers.clone(),
                flags.requestheader_group_headers.clone(),
                flags.requestheader_extra_headers_prefix.clone(),
            ],
            advertise: address.map(|ip| (ip, flags.secure_port)),
            max_requests_inflight: flags.max_requests_inflight.max(1),
            max_mutating_requests_inflight: flags.max_mutating_requests_inflight.max(1),
            encryption: sealer(flags)?,
            authentication: match read(&flags.authentication_config)? {
                Some(text) => Some(text),
                None => issuer_of_flags(flags)?,
            },
            token_webhook: read(&flags.authentication_token_webhook_config_file)?,
            authorization_webhook: read(&flags.authorization_webhook_config_file)?,
            authorization: read(&flags.authorization_config)?,
            system_ca: std::fs::read_to_string(SYSTEM_CA).ok(),
            audit_policy: read(&flags.audit_policy_file)?,
            audit_log: audit_log(flags),
        })
    }
}

//! The scheduler's configuration: flags with upstream's names, and the file of kind KubeSchedulerConfiguration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::k8s::api::core::v1::NodeAffinity;
use base::pki::Identity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::codec::yaml;
use serde::Deserialize;
use serde_json::Value;

use crate::extender;
use crate::profile::{Active, Profile, Strategy};
use crate::queue::Backoff;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// The plugin that removes less important pods.
const PREEMPTION: &str = "DefaultPreemption";
/// Plugins that are part of the queue and of binding, and always run.
const BUILT_IN: [&str; 4] = ["PrioritySort", "SchedulingGates", "DefaultBinder", PREEMPTION];

/// What `navarch scheduler` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The kubeconfig of the API server.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A file of kind KubeSchedulerConfiguration: profiles, plugins and their settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The name pods ask for in `spec.schedulerName`, when no file names profiles.
    #[arg(long, default_value = "default-scheduler", value_name = "NAME")]
    pub scheduler_name: String,
    /// Elect a leader by Lease before scheduling; needed when several run.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What.
        detail: String,
    },
}

/// How the scheduler is to work.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The profiles, one a scheduler name.
    pub profiles: Vec<Profile>,
    /// How long pods wait after failed tries.
    pub backoff: Backoff,
    /// How long a pod's volumes may take to be bound.
    pub bind_timeout: Duration,
    /// Services that have a say in where pods go.
    pub extenders: Vec<extender::Settings>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            profiles: vec![Profile::default()],
            backoff: Backoff::default(),
            bind_timeout: Duration::from_secs(600),
            extenders: Vec::new(),
        }
    }
}

impl Setup {
    /// From the flags and the file they name.
    pub fn load(config: &Config) -> Result<Setup, ConfigError> {
        let Some(path) = &config.config else {
            return Ok(Setup { profiles: vec![Profile::new(&config.scheduler_name)], ..Setup::default() });
        };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Setup::parse(&text, path)
    }

    /// From the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Setup, ConfigError> {
        let fail = |detail: String| ConfigError::Content { path: path.to_owned(), detail };
        let document = yaml::decode_first(text.as_bytes()).map_err(|error| fail(error.to_string()))?;
        let file: File = serde_json::from_value(document.value).map_err(|error| fail(error.to_string()))?;
        if file.api_version != API_VERSION || file.kind != "KubeSchedulerConfiguration" {
            let (version, kind) = (&file.api_version, &file.kind);
            return Err(fail(format!(
                "is {kind} of {version}, not KubeSchedulerConfiguration of {API_VERSION}"
            )));
        }
        file.setup().map_err(fail)
    }
}

/// The file, as far as it has meaning here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    extenders: Vec<FileExtender>,
}

/// An extender as the file tells of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileExtender {
    url_prefix: String,
    filter_verb: Option<String>,
    preempt_verb: Option<String>,
    prioritize_verb: Option<String>,
    weight: Option<i64>,
    bind_verb: Option<String>,
    #[serde(rename = "enableHTTPS", default)]
    https: bool,
    tls_config: Option<FileTls>,
    #[serde(rename = "httpTimeout")]
    timeout: Option<String>,
    #[serde(default)]
    node_cache_capable: bool,
    #[serde(default)]
    managed_resources: Vec<Managed>,
    #[serde(default)]
    ignorable: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FileTls {
    insecure: bool,
    server_name: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// PEM from a field in base64, or from the file that another names.
fn pem(data: Option<&str>, file: Option<&Path>) -> Result<Option<String>, String> {
    let bytes = match (data.filter(|data| !data.is_empty()), file) {
        (Some(data), _) => STANDARD.decode(data).map_err(|_| "extenders: data that is not base64")?,
        (None, Some(path)) => std::fs::read(path)
            .map_err(|error| format!("extenders: cannot read {}: {error}", path.display()))?,
        (None, None) => return Ok(None),
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| "extenders: a certificate or key that is not PEM".to_owned())
}

impl FileExtender {
    fn settings(&self) -> Result<extender::Settings, String> {
        let given = |verb: &Option<String>| verb.clone().filter(|verb| !verb.is_empty());
        let bad = |what: &str| format!("extenders: {}: {what}", self.url_prefix);
        let prioritize = given(&self.prioritize_verb);
        let weight = self.weight.unwrap_or(0);
        if prioritize.is_some() && weight <= 0 {
            return Err(bad("must have a positive weight applied to it"));
        }
        let timeout = match self.timeout.as_deref().filter(|text| *text != "0s") {
            None => None,
            Some(text) => Some(match machinery::codec::scalar::parse_duration(text) {
                Ok(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
                Err(_) => return Err(bad("httpTimeout is no duration")),
            }),
        };
        let tls = match &self.tls_config {
            // Without a CA nothing can be verified: upstream then does not.
            None => extender::Tls { insecure: self.https, ..extender::Tls::default() },
            Some(tls) => {
                let ca = pem(tls.ca_data.as_deref(), tls.ca_file.as_deref())?;
                let cert = pem(tls.cert_data.as_deref(), tls.cert_file.as_deref())?;
                let key = pem(tls.key_data.as_deref(), tls.key_file.as_deref())?;
                extender::Tls {
                    insecure: tls.insecure || (self.https && ca.is_none()),
                    server_name: tls.server_name.clone().filter(|name| !name.is_empty()),
                    ca,
                    identity: cert.zip(key).map(|(cert, key)| Identity { cert, key }),
                }
            }
        };
        Ok(extender::Settings {
            url: self.url_prefix.trim_end_matches('/').to_owned(),
            filter: given(&self.filter_verb),
            prioritize,
            preempt: given(&self.preempt_verb),
            bind: given(&self.bind_verb),
            weight,
            tls,
            timeout,
            knows_nodes: self.node_cache_capable,
            managed: self.managed_resources.iter().map(|one| one.name.clone()).collect(),
            ignorable: self.ignorable,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: Sets,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

/// The plugin sets by extension point. Points that no plugin of ours can be left out of are accepted.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sets {
    multi_point: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    score: Set,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl File {
    fn setup(self) -> Result<Setup, String> {
        let mut setup = Setup::default();
        let seconds = |given: Option<u64>, usual: Duration| given.map_or(usual, Duration::from_secs);
        setup.backoff.first = seconds(self.pod_initial_backoff_seconds, setup.backoff.first);
        setup.backoff.longest = seconds(self.pod_max_backoff_seconds, setup.backoff.longest);
        setup.extenders = self.extenders.iter().map(FileExtender::settings).collect::<Result<_, _>>()?;
        if setup.extenders.iter().filter(|extender| extender.bind.is_some()).count() > 1 {
            return Err("extenders: only one may bind pods".to_owned());
        }
        self.read_profiles(&mut setup)?;
        let managed = self.extenders.iter().flat_map(|extender| &extender.managed_resources);
        let ignored: Vec<&str> =
            managed.filter(|one| one.ignored_by_scheduler).map(|one| one.name.as_str()).collect();
        for profile in &mut setup.profiles {
            profile.settings.ignored.extend(ignored.iter().map(|name| (*name).to_owned()));
        }
        Ok(setup)
    }

    fn read_profiles(&self, setup: &mut Setup) -> Result<(), String> {
        if !self.profiles.is_empty() {
            setup.profiles.clear();
        }
        for given in &self.profiles {
            let name = given.scheduler_name.as_deref().unwrap_or("default-scheduler");
            if setup.profiles.iter().any(|known| known.name == name) {
                return Err(format!("profiles: schedulerName {name:?} is given twice"));
            }
            let mut profile = Profile::new(name);
            let percent = given.percentage_of_nodes_to_score.or(self.percentage_of_nodes_to_score);
            profile.settings.percent_of_nodes =
                percent.filter(|percent| *percent > 0).and_then(|percent| usize::try_from(percent).ok());
            given.plugins.apply(&mut profile)?;
            for config in &given.plugin_config {
                settings(&mut profile, &mut setup.bind_timeout, config)?;
            }
            setup.profiles.push(profile);
        }
        Ok(())
    }
}

/// What a set says of a plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// It does not run.
    Off,
    /// It runs, with this weight when one is given.
    On(Option<i64>),
}

impl Change {
    fn weight(self) -> Option<i64> {
        match self {
            Change::Off => None,
            Change::On(weight) => weight.filter(|weight| *weight > 0),
        }
    }
}

impl Set {
    /// Changes the rows that the set names.
    fn each_row(
        &self,
        rows: &mut [Active],
        mut apply: impl FnMut(&mut Active, Change),
    ) -> Result<(), String> {
        self.each(|name, change| {
            let named = rows.iter_mut().filter(|row| name == "*" || row.plugin.name == name);
            named.map(|row| apply(row, change)).count() > 0
        })
    }

    /// Calls `change` for each plugin named, the disabled ones first; false from it = no such plugin.
    fn each(&self, mut change: impl FnMut(&str, Change) -> bool) -> Result<(), String> {
        for named in &self.disabled {
            if !change(&named.name, Change::Off) && !is_known(&named.name) {
                return Err(format!("plugins: {:?} is not known", named.name));
            }
        }
        for named in &self.enabled {
            if !change(&named.name, Change::On(named.weight)) && !is_known(&named.name) {
                return Err(format!("plugins: {:?} is not known", named.name));
            }
        }
        Ok(())
    }
}

/// Names that are fine even though no row changes.
fn is_known(name: &str) -> bool {
    name == "*" || BUILT_IN.contains(&name)
}

impl Sets {
    fn apply(&self, profile: &mut Profile) -> Result<(), String> {
        self.multi_point.each(|name, change| {
            if name == "*" || name == PREEMPTION {
                profile.preemption = change != Change::Off;
            }
            let mut found = false;
            for active in profile.plugins.iter_mut().filter(|one| name == "*" || one.plugin.name == name) {
                found = true;
                let on = change != Change::Off;
                active.pre_filter = on && active.plugin.pre_filter.is_some();
                active.filter = on && active.plugin.filter.is_some();
                active.score = on && active.plugin.score.is_some();
                active.weight = change.weight().unwrap_or(active.plugin.weight);
            }
            found
        })?;
        let rows = &mut profile.plugins;
        self.pre_filter.each_row(rows, |row, change| {
            row.pre_filter = change != Change::Off && row.plugin.pre_filter.is_some();
        })?;
        self.filter.each_row(rows, |row, change| {
            row.filter = change != Change::Off && row.plugin.filter.is_some();
        })?;
        self.score.each_row(rows, |row, change| {
            row.score = change != Change::Off && row.plugin.score.is_some();
            row.weight = change.weight().unwrap_or(row.plugin.weight);
        })?;
        self.post_filter.each(|name, change| {
            if name == "*" || name == PREEMPTION {
                profile.preemption = change != Change::Off;
            }
            false
        })
    }
}

/// Takes one plugin's arguments.
fn settings(profile: &mut Profile, bind_timeout: &mut Duration, config: &PluginConfig) -> Result<(), String> {
    let (args, settings) = (&config.args, &mut profile.settings);
    let bad = |what: &str| format!("pluginConfig of {}: {what}", config.name);
    match config.name.as_str() {
        "NodeResourcesFit" => {
            settings.ignored = ["ignoredResources", "ignoredResourceGroups"]
                .iter()
                .flat_map(|field| args[*field].as_array().into_iter().flatten())
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect();
            let strategy = &args["scoringStrategy"];
            if strategy.is_object() {
                settings.strategy = read_strategy(strategy).map_err(|what| bad(&what))?;
                if strategy["resources"].is_array() {
                    settings.fit_resources = resources(&strategy["resources"]);
                }
            }
        }
        "NodeResourcesBalancedAllocation" if args["resources"].is_array() => {
            settings.balanced = resources(&args["resources"]).into_iter().map(|(name, _)| name).collect();
        }
        "InterPodAffinity" => {
            if let Some(weight) = args["hardPodAffinityWeight"].as_i64() {
                if !(0..=100).contains(&weight) {
                    return Err(bad("hardPodAffinityWeight must be 0 to 100"));
                }
                settings.hard_affinity_weight = weight;
            }
        }
        "NodeAffinity" if args["addedAffinity"].is_object() => {
            let added: NodeAffinity = serde_json::from_value(args["addedAffinity"].clone())
                .map_err(|error| bad(&error.to_string()))?;
            settings.added_affinity = added.required_during_scheduling_ignored_during_execution;
            settings.added_preferred =
                added.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        }
        "PodTopologySpread" if args["defaultingType"] == "List" => {
            let list = match &args["defaultConstraints"] {
                Value::Null => Vec::new(),
                list => serde_json::from_value(list.clone()).map_err(|error| bad(&error.to_string()))?,
            };
            settings.default_spread = Some(list);
        }
        "VolumeBinding" => {
            if let Some(seconds) = args["bindTimeoutSeconds"].as_u64() {
                *bind_timeout = Duration::from_secs(seconds);
            }
        }
        name if is_known(name) || profile.plugins.iter().any(|active| active.plugin.name == name) => {}
        _ => return Err(bad("the plugin is not known")),
    }
    Ok(())
}

fn resources(list: &Value) -> Vec<(String, i64)> {
    let one = |entry: &Value| {
        let weight = entry["weight"].as_i64().filter(|weight| *weight > 0).unwrap_or(1);
        Some((entry["name"].as_str()?.to_owned(), weight))
    };
    list.as_array().into_iter().flatten().filter_map(one).collect()
}

fn read_strategy(strategy: &Value) -> Result<Strategy, String> {
    match strategy["type"].as_str().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Ok(Strategy::LeastAllocated),
        "MostAllocated" => Ok(Strategy::MostAllocated),
        "RequestedToCapacityRatio" => {
            let shape = strategy["requestedToCapacityRatio"]["shape"].as_array();
            let point =
                |entry: &Value| Some((entry["utilization"].as_i64()?, entry["score"].as_i64().unwrap_or(0)));
            let points: Vec<(i64, i64)> = shape.into_iter().flatten().filter_map(point).collect();
            let rising = points.windows(2).all(|pair| pair[0].0 < pair[1].0);
            if points.is_empty() || !rising {
                return Err("requestedToCapacityRatio.shape needs points of rising utilization".to_owned());
            }
            Ok(Strategy::RequestedToCapacityRatio(points))
        }
        other => Err(format!("scoringStrategy.type {other:?} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(profiles: &str) -> Result<Setup, String> {
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: KubeSchedulerConfiguration\npodMaxBackoffSeconds: 30\n{profiles}"
        );
        Setup::parse(&text, Path::new("f")).map_err(|error| error.to_string())
    }

    #[test]
    fn profiles_choose_plugins_weights_and_settings() {
        let setup = parse(
            "profiles:\n\
             - schedulerName: packer\n\
             \x20 plugins:\n\
             \x20   multiPoint:\n\
             \x20     disabled: [{name: ImageLocality}, {name: DefaultPreemption}]\n\
             \x20   score:\n\
             \x20     disabled: [{name: '*'}]\n\
             \x20     enabled: [{name: NodeResourcesFit, weight: 7}]\n\
             \x20 pluginConfig:\n\
             \x20 - name: NodeResourcesFit\n\
             \x20   args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 2}]}}\n\
             - schedulerName: plain\n",
        )
        .expect("valid");
        assert_eq!(setup.backoff.longest, Duration::from_secs(30));
        let [packer, plain] = setup.profiles.as_slice() else { panic!("two profiles") };
        let scoring: Vec<(&str, i64)> =
            packer.plugins.iter().filter(|row| row.score).map(|row| (row.plugin.name, row.weight)).collect();
        assert_eq!(scoring, [("NodeResourcesFit", 7)]);
        assert!(packer.plugins.iter().any(|row| row.filter) && !packer.preemption && plain.preemption);
        assert_eq!(packer.settings.strategy, Strategy::MostAllocated);
        assert_eq!(packer.settings.fit_resources, [("cpu".to_owned(), 2)]);
    }

    #[test]
    fn extenders_are_told_of() {
        let setup = parse(
            "extenders:\n\
             - urlPrefix: https://127.0.0.1:8888/api/\n\
             \x20 filterVerb: filter\n\
             \x20 prioritizeVerb: prioritize\n\
             \x20 weight: 5\n\
             \x20 enableHTTPS: true\n\
             \x20 httpTimeout: 1500ms\n\
             \x20 nodeCacheCapable: true\n\
             \x20 ignorable: true\n\
             \x20 managedResources: [{name: example.com/gpu, ignoredByScheduler: true}]\n",
        )
        .expect("valid");
        let [extender] = setup.extenders.as_slice() else { panic!("one extender") };
        assert_eq!((extender.url.as_str(), extender.weight), ("https://127.0.0.1:8888/api", 5));
        assert_eq!(extender.timeout, Some(Duration::from_millis(1_500)));
        assert!(extender.tls.insecure && extender.knows_nodes && extender.ignorable);
        assert!(extender.managed.contains("example.com/gpu") && extender.preempt.is_none());
        assert_eq!(setup.profiles[0].settings.ignored, ["example.com/gpu"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, expect) in [
            ("profiles: [{schedulerName: a}, {schedulerName: a}]", "given twice"),
            ("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]", "positive weight"),
            (
                "extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]",
                "only one",
            ),
            ("profiles: [{plugins: {filter: {enabled: [{name: Nonsense}]}}}]", "\"Nonsense\" is not known"),
            (
                "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 200}}]}]",
                "0 to 100",
            ),
        ] {
            let error = parse(text).map(|_| ()).expect_err(text);
            assert!(error.contains(expect), "{error}");
        }
    }
}

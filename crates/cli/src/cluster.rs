//! What a Navarch cluster has beyond what every API server makes: the facts that nodes need, the way in for new
//! nodes, and permissions of nodes.
//!
//! The names kubeadm gave to such things are kept where other tools look for them (`cluster-info`).

use std::net::IpAddr;

use api::Gvr;
use client::{Client, ClientError, Kubeconfig, Patch, WriteOptions};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::CliError;

/// The group of users with a token of `navarch token create`.
pub const JOINERS: &str = "system:bootstrappers:navarch";
/// The ConfigMap of `kube-system` with the facts.
const FACTS: &str = "navarch-cluster";
/// The ConfigMap of `kube-public` that tells everybody which CA the cluster has.
pub const INFO: &str = "cluster-info";
const MANAGER: &str = "navarch";

/// What a node must know of its cluster, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The address of the cluster's DNS.
    pub dns_address: IpAddr,
    /// The cluster's DNS domain.
    pub domain: String,
    /// Addresses of pods.
    pub pod_net: IpNet,
    /// Addresses of Services.
    pub service_net: IpNet,
}

impl Facts {
    /// As the data of a ConfigMap.
    pub fn to_data(&self) -> Value {
        json!({
            "dnsAddress": self.dns_address.to_string(), "clusterDomain": self.domain,
            "podNetwork": self.pod_net.to_string(), "serviceNetwork": self.service_net.to_string(),
        })
    }

    /// From the data of a ConfigMap; the error names what is missing.
    pub fn of_data(data: &Value) -> Result<Facts, String> {
        fn field<T: std::str::FromStr>(data: &Value, name: &str) -> Result<T, String> {
            let text = data[name].as_str().ok_or_else(|| format!("{name} is missing"))?;
            text.parse().map_err(|_| format!("{name} is {text:?}"))
        }
        Ok(Facts {
            dns_address: field(data, "dnsAddress")?,
            domain: field(data, "clusterDomain")?,
            pod_net: field(data, "podNetwork")?,
            service_net: field(data, "serviceNetwork")?,
        })
    }
}

fn config_maps() -> Gvr {
    Gvr::new("", "v1", "configmaps")
}

/// Creates or corrects all of it. `server` is where nodes reach the API server.
pub async fn publish(client: &Client, server: &str, ca: &str, facts: &Facts) -> Result<(), CliError> {
    for object in permissions() {
        ensure(client, &object).await?;
    }
    // One cluster without a name and nobody's credentials, as kubeadm publishes it.
    let mut config = Kubeconfig::single("", server, ca, None, None);
    config.users.clear();
    config.contexts.clear();
    apply(client, "kube-public", INFO, json!({"kubeconfig": config.to_yaml()?})).await?;
    apply(client, "kube-system", FACTS, facts.to_data()).await
}

async fn apply(client: &Client, namespace: &str, name: &str, data: Value) -> Result<(), CliError> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
        "data": data,
    });
    let patch = Patch::Apply { object, manager: MANAGER.to_owned(), force: true };
    let _: Value = client.patch_at(&config_maps(), namespace, name, "", &patch).await?;
    Ok(())
}

async fn ensure(client: &Client, object: &Value) -> Result<(), CliError> {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let gvr = Gvr::new("rbac.authorization.k8s.io", "v1", &format!("{kind}s"));
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let made = client.create_at::<Value, Value>(&gvr, namespace, object, &WriteOptions::default()).await;
    match made {
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// The facts, read by a node.
pub async fn read(client: &Client) -> Result<Facts, CliError> {
    let found: Value = client.get_at(&config_maps(), "kube-system", FACTS).await?;
    Facts::of_data(&found["data"]).map_err(|detail| CliError::Join {
        what: format!("reading ConfigMap kube-system/{FACTS}"),
        detail,
        next: "is the control plane a `navarch server` or `navarch up` of this version?".to_owned(),
    })
}

/// The public words of a cluster: its kubeconfig without a user, and its signatures.
pub async fn info(client: &Client) -> Result<Value, ClientError> {
    let found: Value = client.get_at(&config_maps(), "kube-public", INFO).await?;
    Ok(found["data"].clone())
}

/// The cluster's CA bundle as it tells everybody; `None` while it does not answer.
pub async fn ca(client: &Client) -> Option<String> {
    let data = info(client).await.ok()?;
    let config = Kubeconfig::parse(data["kubeconfig"].as_str()?).ok()?;
    config.settings(None).ok()?.ca.map(|pem| pem.trim_end().to_owned()).filter(|pem| !pem.is_empty())
}

fn group(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name})
}

fn cluster_binding(name: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    })
}

/// A Role that reads one ConfigMap, and its binding.
fn reader(namespace: &str, map: &str, subjects: &Value) -> [Value; 2] {
    let (version, name) = ("rbac.authorization.k8s.io/v1", format!("navarch:{map}"));
    let meta = json!({"name": name, "namespace": namespace});
    let rule =
        json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"]});
    [
        json!({"apiVersion": version, "kind": "Role", "metadata": meta, "rules": [rule]}),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": meta, "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        }),
    ]
}

/// Everything that new and old nodes may do beyond upstream's bootstrap roles.
fn permissions() -> Vec<Value> {
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    let approver =
        json!({"kind": "ServiceAccount", "name": controllers::SERVING_APPROVER, "namespace": "kube-system"});
    let proxy = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"});
    let mut objects = vec![
        cluster_binding("navarch:node-bootstrap", "system:node-bootstrapper", group(JOINERS)),
        cluster_binding("navarch:node-certificates", &format!("{requests}:nodeclient"), group(JOINERS)),
        cluster_binding(
            "navarch:node-certificate-rotation",
            &format!("{requests}:selfnodeclient"),
            group("system:nodes"),
        ),
        // A joined node's service proxy and DNS call as the node.
        cluster_binding("navarch:node-proxier", "system:node-proxier", group("system:nodes")),
        // Which packets a pod may get follows from the labels of all pods and namespaces.
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "navarch:network-policy"},
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": ["list", "watch"]},
                {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
            ],
        }),
        cluster_binding("navarch:network-policy-nodes", "navarch:network-policy", group("system:nodes")),
        cluster_binding("navarch:network-policy", "navarch:network-policy", proxy),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "navarch:serving-approver"},
            "rules": [
                {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"],
                    "verbs": ["update"]},
                {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                    "resourceNames": ["kubernetes.io/kubelet-serving"], "verbs": ["approve"]},
            ],
        }),
        cluster_binding("navarch:serving-approver", "navarch:serving-approver", approver),
    ];
    objects.extend(reader(
        "kube-public",
        INFO,
        &json!([group("system:unauthenticated"), group("system:authenticated")]),
    ));
    objects.extend(reader("kube-system", FACTS, &json!([group("system:nodes")])));
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_a_config_map() {
        let facts = Facts {
            dns_address: [10, 96, 0, 10].into(),
            domain: "cluster.local".to_owned(),
            pod_net: "10.244.0.0/16".parse().expect("a network"),
            service_net: "10.96.0.0/16".parse().expect("a network"),
        };
        assert_eq!(Facts::of_data(&facts.to_data()).expect("complete"), facts);
        let error = Facts::of_data(&json!({"dnsAddress": "x"})).expect_err("broken");
        assert_eq!(error, "dnsAddress is \"x\"");
    }

    #[test]
    fn permissions_are_named_once() {
        let mut names: Vec<String> = permissions()
            .iter()
            .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]))
            .collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!((names.len(), count), (13, 13));
    }
}

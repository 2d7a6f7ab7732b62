//! Approves certificates for the servers of joined nodes' agents, where a cluster is set to do so: upstream leaves
//! that to people.
//!
//! A node gets what names itself only: not another node's address, nor the API server's.

use std::net::IpAddr;
use std::sync::Arc;

use api::k8s::api::certificates::v1::CertificateSigningRequest;
use api::k8s::api::core::v1::Node;
use client::{Cache, Client, ClientError, Key, Meta, Queue};
use serde_json::Value;

use super::{plan, request};
use crate::context::Context;
use crate::worker;

/// The service account of this controller.
pub const SERVING_APPROVER: &str = "navarch-serving-approver";
const MESSAGE: &str = "Approved: the node asks for a certificate that names itself only.";

struct Approver {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    reserved: Vec<IpAddr>,
    clock: base::Clock,
}

/// Starts the approver, if it is set.
pub fn start(context: &Context) {
    let Some(reserved) = context.config.approve_serving.clone() else { return };
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let requests = context.informers.of::<CertificateSigningRequest>();
    let nodes = context.informers.of::<Node>();
    let add = queue.clone();
    requests.on_change(move |change| add.add(Key::of(&**change.object())));
    let approver = Arc::new(Approver {
        client: (context.client_for)(SERVING_APPROVER),
        requests: requests.cache().clone(),
        nodes: nodes.cache().clone(),
        reserved,
        clock: context.clock.clone(),
    });
    worker::start("serving certificate approver", queue, 1, &context.tasks, move |key| {
        let (approver, nodes) = (approver.clone(), nodes.clone());
        async move {
            nodes.synced().await;
            approver.sync(&key).await.map(|()| None)
        }
    });
}

impl Approver {
    async fn sync(&self, key: &Key) -> Result<(), ClientError> {
        let Some(csr) = self.requests.get_key(key) else { return Ok(()) };
        let nodes = self.nodes.list();
        if let Err(why) = judge(&csr, &nodes, &self.reserved) {
            if let Some(why) = why {
                tracing::warn!(request = csr.name(), why, "a serving certificate is left to people");
            }
            return Ok(());
        }
        let approved = plan::approve(&csr, MESSAGE, self.clock.now());
        let gvr = client::ResourceRef::of::<CertificateSigningRequest>().gvr;
        let _: Value = self.client.update_at(&gvr, "", csr.name(), "approval", &approved).await?;
        Ok(())
    }
}

/// Whether a request is approved; if not, why, unless it is not for us to say.
fn judge(
    csr: &CertificateSigningRequest,
    nodes: &[Arc<Node>],
    reserved: &[IpAddr],
) -> Result<(), Option<&'static str>> {
    let decided = plan::has(csr, "Approved") || plan::has(csr, "Denied") || plan::certificate(csr).is_some();
    if decided || csr.spec.signer_name != plan::KUBELET_SERVING {
        return Err(None);
    }
    let subject = request::parse(&csr.spec.request.0).ok_or(Some("it cannot be read"))?;
    if !plan::is_kubelet_serving(csr, &subject) {
        return Err(Some("it is not a node's"));
    }
    let groups = csr.spec.groups.iter().flatten();
    let by_itself = csr.spec.username.as_deref() == Some(&subject.common_name)
        && groups.into_iter().any(|group| group == "system:nodes");
    let Some(name) = subject.common_name.strip_prefix("system:node:").filter(|_| by_itself) else {
        return Err(Some("somebody else asks for it"));
    };
    // A machine that calls itself so could pose as the API server.
    let pretends = name == "localhost" || name == "kubernetes" || name.starts_with("kubernetes.");
    if pretends || subject.dns_names.iter().any(|dns_name| dns_name != name) {
        return Err(Some("it names something else than the node"));
    }
    for address in &subject.addresses {
        if address.is_loopback() || address.is_unspecified() || reserved.contains(address) {
            return Err(Some("it names an address that is not the node's"));
        }
        let text = address.to_string();
        let others = nodes.iter().filter(|node| node.name() != name);
        let mut taken = others.filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
        if taken.any(|of| of.address == text) {
            return Err(Some("it names another node's address"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::k8s::ByteString;
    use base::pki::{Subject, request};
    use serde_json::json;

    use super::*;

    fn check(node: &str, dns_name: &str, address: [u8; 4]) -> Result<(), Option<&'static str>> {
        let subject = Subject {
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes".into()),
            dns_names: vec![dns_name.into()],
            addresses: vec![address.into()],
            ..Subject::default()
        };
        let (_, pem) = request(&subject).expect("a request");
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "c"},
            "spec": {
                "request": "", "signerName": plan::KUBELET_SERVING, "usages": ["digital signature", "server auth"],
                "username": "system:node:a", "groups": ["system:nodes"],
            },
        }))
        .expect("a request");
        csr.spec.request = ByteString(pem.into_bytes());
        let b: Node = serde_json::from_value(json!({
            "metadata": {"name": "b"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
        }))
        .expect("a node");
        judge(&csr, &[Arc::new(b)], &[[192, 0, 2, 1].into()])
    }

    #[test]
    fn a_node_gets_its_own_names_only() {
        assert_eq!(check("a", "a", [192, 0, 2, 3]), Ok(()));
        assert_eq!(check("b", "b", [192, 0, 2, 3]), Err(Some("somebody else asks for it")));
        let elsewhere = Err(Some("it names something else than the node"));
        assert_eq!(check("a", "kubernetes.default.svc", [192, 0, 2, 3]), elsewhere);
        assert_eq!(check("a", "a", [192, 0, 2, 2]), Err(Some("it names another node's address")));
        let not_its_own = Err(Some("it names an address that is not the node's"));
        assert_eq!(check("a", "a", [192, 0, 2, 1]), not_its_own);
        assert_eq!(check("a", "a", [127, 0, 0, 1]), not_its_own);
    }
}

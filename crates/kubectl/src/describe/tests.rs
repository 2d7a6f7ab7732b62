//! Golden texts: objects in, descriptions out.

use client::ResourceRef;
use serde_json::json;

use super::*;

fn described(group: &str, plural: &str, object: &Value, related: &Related) -> String {
    let kind = Discovered {
        resource: ResourceRef::new(group, "v1", plural, object["kind"].as_str().unwrap_or_default(), true),
        verbs: Vec::new(),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
        preferred: true,
    };
    let now: jiff::Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
    description(&kind, object, related, Doc::new(now, TimeZone::UTC))
}

#[test]
fn a_pod() {
    let pod = json!({
        "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b", "c": "d"}},
        "spec": {
            "nodeName": "node-1", "serviceAccountName": "default", "priority": 0,
            "containers": [{
                "name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}],
                "command": ["sh", "-c"], "env": [{"name": "A", "value": "1"}],
                "resources": {"requests": {"cpu": "100m"}},
                "volumeMounts": [{"name": "v", "mountPath": "/x", "readOnly": true}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
            "qosClass": "Burstable", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "containerID": "x://1", "imageID": "sha", "ready": true, "restartCount": 2,
                "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error",
                    "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"}}}],
        },
    });
    let event = json!({"type": "Normal", "reason": "Started", "message": "Started container c\n", "count": 3,
        "firstTimestamp": "2026-01-01T00:00:05Z", "lastTimestamp": "2026-01-01T00:09:00Z",
        "source": {"component": "kubelet"}, "involvedObject": {"fieldPath": "spec.containers{c}"}});
    let related = Related { events: Some(vec![event]), ..Related::default() };
    let expect = "\
Name:             p
Namespace:        n
Priority:         0
Service Account:  default
Node:             node-1/10.0.0.1
Start Time:       Thu, 01 Jan 2026 00:00:00 +0000
Labels:           a=b
                  c=d
Annotations:      <none>
Status:           Running
IP:               10.1.0.1
IPs:
  IP:  10.1.0.1
Containers:
  c:
    Container ID:  x://1
    Image:         i
    Image ID:      sha
    Port:          80/TCP (web)
    Host Port:     0/TCP (web)
    Command:
      sh
      -c
    State:          Running
      Started:      Thu, 01 Jan 2026 00:00:05 +0000
    Last State:     Terminated
      Reason:       Error
      Exit Code:    1
      Started:      Thu, 01 Jan 2026 00:00:01 +0000
      Finished:     Thu, 01 Jan 2026 00:00:02 +0000
    Ready:          True
    Restart Count:  2
    Requests:
      cpu:     100m
    Liveness:  http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3
    Environment:
      A:  1
    Mounts:
      /x from v (ro)
Conditions:
  Type    Status
  Ready   True 
Volumes:
  v:
    Type:        EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:      
    SizeLimit:   <unset>
QoS Class:       Burstable
Node-Selectors:  <none>
Tolerations:     k:NoExecute op=Exists for 300s
Events:
  Type    Reason   Age                  From     Message
  ----    ------   ----                 ----     -------
  Normal  Started  60s (x3 over 9m55s)  kubelet  spec.containers{c}: Started container c
";
    assert_eq!(described("", "pods", &pod, &related), expect);
}

#[test]
fn a_service_and_its_endpoints() {
    let service = json!({
        "kind": "Service", "metadata": {"name": "s", "namespace": "n"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "selector": {"a": "b"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "web"}], "sessionAffinity": "None"},
    });
    let endpoint = |n: u8| json!({"addresses": [format!("10.1.0.{n}")], "conditions": {"ready": n != 9}});
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"port": 8080}],
        "endpoints": [endpoint(1), endpoint(2), endpoint(3), endpoint(4), endpoint(9)],
    });
    let lists = BTreeMap::from([("endpointslices".to_owned(), vec![slice])]);
    let related = Related { lists, events: Some(Vec::new()) };
    let expect = "\
Name:              s
Namespace:         n
Labels:            <none>
Annotations:       <none>
Selector:          a=b
Type:              ClusterIP
IP Families:       <none>
IP:                10.0.0.9
IPs:               10.0.0.9
Port:              <unset>  80/TCP
TargetPort:        web/TCP
Endpoints:         10.1.0.1:8080,10.1.0.2:8080,10.1.0.3:8080 + 1 more...
Session Affinity:  None
Events:            <none>
";
    assert_eq!(described("", "services", &service, &related), expect);
}

#[test]
fn a_foreign_kind() {
    let object = json!({
        "apiVersion": "x.y/v1", "kind": "Z", "metadata": {"name": "z", "namespace": "n", "uid": "1"},
        "spec": {"maxSize": 3, "items": [{"a": 1}, "b"]},
    });
    let expect = "\
Name:         z
Namespace:    n
Labels:       <none>
Annotations:  <none>
API Version:  x.y/v1
Kind:         Z
Metadata:
  UID:  1
Spec:
  Items:
    A:  1
    b
  Max Size:  3
";
    assert_eq!(described("x.y", "zs", &object, &Related::default()), expect);
}

#[test]
fn a_node_and_what_it_holds() {
    let node = json!({
        "kind": "Node", "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110"}},
    });
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "256Mi"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running"},
    });
    let lists = BTreeMap::from([("pods".to_owned(), vec![pod])]);
    let text = described("", "nodes", &node, &Related { lists, events: None });
    for line in [
        "Roles:              control-plane",
        "Taints:             k:NoSchedule",
        "Non-terminated Pods:          (1 in total)",
        "  n                           p       1 (50%)       0 (0%)      256Mi (25%)      0 (0%)         10m",
        "  cpu                1 (50%)      0 (0%)",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n---\n{text}");
    }
}

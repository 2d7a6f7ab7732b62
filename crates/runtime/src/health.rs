//! The gRPC health check (`grpc.health.v1`), for probes.
//!
//! Must not know what is probed.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks a server for the health of `service` (empty = the server itself). An error is the text to show.
pub async fn check(address: SocketAddr, service: &str, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, ask(address, service)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("timeout: health rpc did not complete within {}s", limit.as_secs())),
    }
}

async fn ask(address: SocketAddr, service: &str) -> Result<(), String> {
    let unreachable =
        |error: String| format!("error: failed to connect service {:?}: {error}", address.to_string());
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(error.to_string()))?;
    let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|error| unreachable(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| unreachable(error.to_string()))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| unreachable(error.to_string()))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = grpc.unary(
        request,
        path,
        tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default(),
    );
    let answer = answer.await.map_err(|status| match status.code() {
        tonic::Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        _ => format!("error: health rpc probe failed: {}", status.message()),
    })?;
    let name = match answer.into_inner().status {
        1 => return Ok(()),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with {name:?})"))
}

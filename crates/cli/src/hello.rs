//! `navarch hello`: the demo application, a page that says which pod answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::http::Body;
use base::{Clock, Tasks};
use http::{Request, Response, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// After SIGTERM the page is served this much longer: until then proxies may still send requests here.
const LINGER: Duration = Duration::from_secs(3);

/// Flags of `navarch hello`.
#[derive(Clone, Debug, clap::Args)]
pub struct HelloArgs {
    /// The port to listen on.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
}

/// Serves the page until SIGTERM.
pub fn run(args: &HelloArgs) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    match runtime.block_on(serve(args.port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: cannot serve on port {}: {error}", args.port);
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let tasks = Tasks::new();
    let served = Arc::new(AtomicU64::new(0));
    println!("hello from {}: listening on port {port}", pod_name());
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let served = served.clone();
            tasks.spawn("connection", async move {
                let service = service_fn(move |request| {
                    let count = served.fetch_add(1, Ordering::Relaxed) + 1;
                    async move { Ok::<_, Infallible>(answer(&request, count)) }
                });
                // A client that hangs up is no error of ours.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = async { terminate.recv().await; Clock::system().sleep(LINGER).await } => {}
    }
    println!("hello from {}: {} requests served, bye", pod_name(), served.load(Ordering::Relaxed));
    Ok(())
}

fn pod_name() -> String {
    std::env::var("POD_NAME").unwrap_or_else(|_| crate::host::name())
}

fn answer(request: &Request<hyper::body::Incoming>, count: u64) -> Response<Body> {
    let node = std::env::var("NODE_NAME").unwrap_or_default();
    let page = format!(
        "Hello from Navarch!\n\npod:     {}\nnode:    {node}\nrequest: {} {}, number {count} here\n",
        pod_name(),
        request.method(),
        request.uri().path(),
    );
    let mut response = Response::new(base::http::full(page));
    let content_type = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

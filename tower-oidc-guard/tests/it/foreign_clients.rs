//! gRPC clients of other makers, and readers of HTTP/2 frames that are not hyper's, with guarded services.
//!
//! The test is ignored, since it needs Python and packages of PyPI. `demo/interop/foreign_clients.sh` installs the packages and runs
//! it.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tonic::transport::server::TcpIncoming;
use tower_oidc_guard::{Issuer, OidcGuard};

use crate::grpc_refusals::Refusals;
use crate::support::AUDIENCE;
use crate::support::grpc::Feed;
use crate::support::in_memory::{cluster, token_spec};

/// How long the clients may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// The lifetimes of the tokens whose streams end, in seconds. The clients use the first one that is still valid for a while.
const LIFETIMES: std::ops::Range<u64> = 5..90;

/// Starts a server of tonic with [`Feed`] and returns its port.
macro_rules! start {
    ($layer:expr) => {{
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = tonic::transport::Server::builder().layer($layer);
        let server = server.add_service(Feed);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        port
    }};
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python and packages of PyPI; demo/interop/foreign_clients.sh runs it"]
async fn grpc() {
    let refusals = Refusals::new().await;
    let mut servers = Vec::new();
    for (guard, valid) in &refusals.guards {
        servers.push((start!(guard.layer()), valid));
    }
    let calls = refusals.calls.iter().map(|call| {
        let (port, valid) = servers[call.guard];
        json!({
            "name": call.name,
            "port": port,
            "authorization": call.authorization,
            "query": call.query,
            "status": call.status,
            "message": call.message,
            "valid": valid,
        })
    });

    let cluster = cluster();
    let issuer = Issuer::kubernetes(cluster.url()).audience(AUDIENCE);
    let builder = OidcGuard::builder().issuer(issuer.leeway(Duration::ZERO));
    let builder = builder.http_client(cluster.client()).any_verified_caller();
    let guard = builder.build().unwrap();
    guard.ready().await.unwrap();
    let now = SystemTime::now();
    let unix_now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let tokens = LIFETIMES.map(|seconds| {
        let token = token_spec(&cluster).issued_at(now);
        let token = token.lifetime(Duration::from_secs(seconds)).mint();
        json!([unix_now + seconds, token])
    });
    let input = json!({
        "calls": calls.collect::<Vec<_>>(),
        "streams": {
            "port": start!(guard.layer().end_streams_with_token()),
            "tokens": tokens.collect::<Vec<_>>(),
        },
    });

    let [python, clients] = ["FOREIGN_PYTHON", "FOREIGN_CLIENTS"].map(|name| {
        std::env::var_os(name).unwrap_or_else(|| {
            panic!("{name} is not set; demo/interop/foreign_clients.sh installs the clients and runs this test")
        })
    });
    let mut child = Command::new(python)
        .arg(std::path::Path::new(&clients).join("grpc_clients.py"))
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap();
    assert!(
        status.unwrap().success(),
        "a check has failed; see the lines above"
    );
}

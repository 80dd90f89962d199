//! Runs one code path repeatedly, for tools that count instructions.
//!
//! The arguments are `<path> <requests>`. The path is `noop` (a middleware that does nothing), `without_resend`, `resend` (the
//! default), `mapped` (`for_each_origin`, without resend) or `other_origin` (a request without a token). Count only the
//! instructions in `measured`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "targets/allocations.rs"]
mod allocations;
#[path = "shared/clients.rs"]
mod clients;
#[path = "targets/token.rs"]
mod token;

use std::sync::Arc;

use reqwest_middleware::ClientWithMiddleware;
use reqwest_wi_auth::{BearerAuth, Error, ProjectedToken, TokenProvider, TokenSource};
use tokio::runtime::{Builder, Runtime};

use crate::clients::{Noop, ORIGIN, client, request};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Issues the tokens of one source for every audience.
struct OneSource(Arc<dyn TokenSource>);

impl TokenProvider for OneSource {
    fn token_source(&self, _audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        Ok(self.0.clone())
    }
}

#[inline(never)]
fn measured(runtime: &Runtime, client: &ClientWithMiddleware, request: reqwest::Request) {
    runtime.block_on(async { client.execute(request).await.expect("a response") });
}

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    // `cargo bench` passes one argument itself. Without further arguments there is nothing to do.
    let [path, requests, ..] = given.as_slice() else {
        return println!("<path> <requests>");
    };
    let requests: u64 = requests
        .parse()
        .expect("the second argument must be a number of requests");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, token::text(0)).expect("the token is written");
    let source = runtime
        .block_on(ProjectedToken::open(&file))
        .expect("a token");
    let auth = |origin| BearerAuth::for_origin(origin, source.clone()).expect("an origin");
    let client = match path.as_str() {
        "noop" => client(Noop),
        "without_resend" => client(auth(ORIGIN).without_resend()),
        "resend" => client(auth(ORIGIN)),
        "mapped" => {
            let provider = OneSource(Arc::new(source.clone()));
            let auth = BearerAuth::for_each_origin(provider, |origin| Some(origin.to_owned()));
            client(auth.without_resend())
        }
        "other_origin" => client(auth("https://other.example")),
        other => panic!("unknown path {other}"),
    };
    measured(&runtime, &client, request(&client));
    let mut allocated = 0;
    for _ in 0..requests {
        let request = request(&client);
        let before = allocations::count();
        measured(&runtime, &client, request);
        allocated += allocations::count() - before;
    }
    println!(
        "{path}: {} allocations per request",
        allocated as f64 / requests as f64
    );
}

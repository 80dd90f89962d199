//! Each kind of refusal of a gRPC call, on the frames of HTTP/2.
//!
//! A call is refused before, while and after its messages are sent. Each time, the response is one HEADERS frame that ends the
//! stream, and the connection can be used for the next call.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::{Request, Response, StatusCode};
use tempfile::TempDir;
use tower_oidc_guard::testing::{FakeApiServer, MemoryIssuer};
use tower_oidc_guard::{Issuer, OidcGuard, Policy, TokenReview, WhenUnavailable};

use crate::grpc_frames::{Connection, GO_AWAY, RawFrame, Upload, servers};
use crate::support::AUDIENCE;
use crate::support::in_memory::{GKE_SA, cluster, fetch_jwks, guard_builder, token_spec};
use crate::support::mock_client::pending_client;

/// The scope that a guard requires. The percent sign has to be encoded.
const SCOPE: &str = "orders%all";
/// The number of requests that may wait for the keys of one issuer.
const MAX_WAITING: usize = 1024;

/// A call that is refused.
pub struct RefusedCall {
    pub name: &'static str,
    /// The index of its guard.
    pub guard: usize,
    /// The values of its `authorization` headers.
    pub authorization: Vec<String>,
    /// The path of a call, with a query.
    pub query: &'static str,
    pub status: u16,
    /// The header `grpc-message`.
    pub message: Option<&'static str>,
}

/// Guards in different states, with calls that they refuse.
pub struct Refusals {
    /// The guards, with a token that each of them admits now, if there is one.
    pub guards: Vec<(OidcGuard, Option<String>)>,
    pub calls: Vec<RefusedCall>,
    _api: FakeApiServer,
    _volume: TempDir,
}

fn bearer(token: impl std::fmt::Display) -> Vec<String> {
    vec![format!("Bearer {token}")]
}

impl Refusals {
    pub async fn new() -> Self {
        let cluster = cluster();
        let mut calls = Vec::new();
        let builder = || guard_builder(&cluster).policy(Policy::members([GKE_SA]));
        // With keys as JSON, a call with an unknown key does not wait for newer ones.
        let issuer = Issuer::kubernetes(cluster.url()).keys_json(fetch_jwks(&cluster).await);
        let ready = OidcGuard::builder().issuer(issuer.audience(AUDIENCE));
        let ready = ready.policy(Policy::members([GKE_SA])).build().unwrap();
        add_refused_tokens(&cluster, &mut calls);

        let scoped = guard_builder(&cluster)
            .policy(Policy::members([GKE_SA]).require_scope(SCOPE))
            .build()
            .unwrap();
        let mut add = |guard, name, authorization, status, message| {
            calls.push(RefusedCall {
                name,
                guard,
                authorization,
                query: "",
                status,
                message,
            });
        };
        let valid = token_spec(&cluster).lifetime(HOUR).mint();
        let message = "the token lacks a required scope: orders%25all";
        add(1, "a missing scope", bearer(&valid), 7, Some(message));

        let silent = builder().without_error_description().build().unwrap();
        add(2, "no token, without a description", vec![], 16, None);
        let small = builder().max_token_bytes(1024).build().unwrap();
        let long = token_spec(&cluster)
            .claim("filler", "x".repeat(1024))
            .mint();
        let message = Some("the token is too long");
        add(3, "a token that is too long", bearer(long), 16, message);

        let failing_issuer = MemoryIssuer::new("https://failing.example").unwrap();
        failing_issuer.fail(StatusCode::BAD_GATEWAY);
        let failing = guard_builder(&failing_issuer).any_verified_caller();
        let failing = failing.build().unwrap();
        let token = token_spec(&failing_issuer).mint();
        let no_keys = Some("the issuer's keys are not available");
        add(4, "no keys", bearer(token), 14, no_keys);

        let crowded = Issuer::kubernetes(cluster.url()).audience(AUDIENCE);
        let crowded = OidcGuard::builder().issuer(crowded).any_verified_caller();
        let crowded = crowded.http_client(pending_client()).build().unwrap();
        for _ in 0..MAX_WAITING {
            let (verifier, token) = (crowded.verifier().clone(), valid.clone());
            tokio::spawn(async move { verifier.verify(token).await });
        }
        add(5, "too many waiting calls", bearer(&valid), 14, no_keys);

        let (api, volume) = (
            FakeApiServer::start().await.unwrap(),
            TempDir::new().unwrap(),
        );
        api.write_pod_volume(&volume, "shop", "guard").unwrap();
        api.grant_token_reviews("shop", "guard");
        let reviewed = |when_unavailable| {
            let issuer = api.issuer(&volume).unwrap().audience(AUDIENCE);
            let issuer = issuer.token_review(TokenReview::new(when_unavailable));
            let builder = OidcGuard::builder().issuer(issuer).any_verified_caller();
            builder.build().unwrap()
        };
        let token = |name: &str| api.token("shop", name).audience(AUDIENCE).mint();
        let revoking = reviewed(WhenUnavailable::Accept);
        let message = Some("the token is not confirmed by its cluster's API server");
        let revoked = token("gone");
        add(6, "a revoked token", bearer(&revoked), 16, message);
        api.delete_pod("shop", "gone");
        revoking.verifier().verify(&revoked).await.unwrap_err();
        let kept = token("kept");
        revoking.verifier().verify(&kept).await.unwrap();
        let unreachable = reviewed(WhenUnavailable::Refuse);
        unreachable.ready().await.unwrap();
        let message = Some("the token could not be confirmed by its cluster's API server");
        add(7, "no review", bearer(token("other")), 14, message);
        api.map_responses(|request, mut response| {
            if request.uri().path().ends_with("/tokenreviews") {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        });

        for guard in [&ready, &scoped, &silent, &small] {
            guard.ready().await.unwrap();
        }
        let scope = token_spec(&cluster).lifetime(HOUR).claim("scope", SCOPE);
        let guards = vec![
            (ready, Some(valid.clone())),
            (scoped, Some(scope.mint())),
            (silent, Some(valid)),
            (small, None),
            (failing, None),
            (crowded, None),
            (revoking, Some(kept)),
            (unreachable, None),
        ];
        Self {
            guards,
            calls,
            _api: api,
            _volume: volume,
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Adds the calls whose token a guard refuses that has its keys and allows one account.
fn add_refused_tokens(cluster: &MemoryIssuer, calls: &mut Vec<RefusedCall>) {
    let spec = || token_spec(cluster).lifetime(HOUR);
    let valid = spec().mint();
    let unix_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let later = unix_now.unwrap().as_secs() + 1000;
    let basic = "Basic dXNlcjpwYXNzd29yZA==".to_owned();
    for (name, authorization, status, message) in [
        ("no token", vec![], 16, "no bearer token"),
        (
            "another scheme",
            vec![basic],
            16,
            "no bearer token, but credentials of the scheme Basic",
        ),
        (
            "two spaces",
            vec![format!("Bearer  {valid}")],
            16,
            "malformed request: `Bearer` is not followed by one space and a token",
        ),
        (
            "two headers",
            vec![format!("Bearer {valid}"); 2],
            16,
            "malformed request: a repeated header for the token",
        ),
        (
            "no token after the scheme",
            vec!["Bearer".to_owned()],
            16,
            "malformed token: no token after the scheme",
        ),
        (
            "a malformed token",
            bearer("x"),
            16,
            "malformed token: not three parts",
        ),
        (
            "an unknown algorithm",
            bearer(spec().header("alg", "HS256").mint()),
            16,
            "the token's algorithm is not supported",
        ),
        (
            "another type",
            bearer(spec().header("typ", "at+jwt").mint()),
            16,
            "the token's type is not accepted",
        ),
        (
            "an unknown issuer",
            bearer(spec().claim("iss", "https://other.example").mint()),
            16,
            "the token's issuer is not trusted",
        ),
        (
            "another audience",
            bearer(spec().claim("aud", "other").mint()),
            16,
            "the token is for another audience",
        ),
        (
            "an expired token",
            bearer(spec().claim("exp", 1).mint()),
            16,
            "the token has expired",
        ),
        (
            "a token that is not valid yet",
            bearer(spec().claim("nbf", later).mint()),
            16,
            "the token is not valid yet",
        ),
        (
            "a token from the future",
            bearer(spec().claim("iat", later).mint()),
            16,
            "the token's time of issue is in the future",
        ),
        (
            "an unknown key",
            bearer(spec().header("kid", "unknown").mint()),
            16,
            "the token's key is not published by its issuer",
        ),
        (
            "an invalid signature",
            bearer(spec().bad_signature().mint()),
            16,
            "the token's signature does not verify",
        ),
        (
            "a bound token",
            bearer(
                spec()
                    .claim("cnf", serde_json::json!({ "jkt": "x" }))
                    .mint(),
            ),
            16,
            "the token is bound to a key of its sender, which is not supported",
        ),
        (
            "another account",
            bearer(spec().service_account("a", "b").mint()),
            7,
            "the caller is not allowed",
        ),
    ] {
        calls.push(RefusedCall {
            name,
            guard: 0,
            authorization,
            query: "",
            status,
            message: Some(message),
        });
    }
    calls.push(RefusedCall {
        name: "a token in the query",
        guard: 0,
        authorization: bearer(&valid),
        query: "?access_token=x",
        status: 16,
        message: Some("malformed request: a token in the query"),
    });
}

fn call(method: &str, authorization: &[String]) -> Request<()> {
    let mut request = Request::post(format!("http://service.example/shop.Feed/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for value in authorization {
        request = request.header("authorization", value);
    }
    request.body(()).unwrap()
}

/// Asserts that the frames of a stream are one HEADERS frame that ends it. RST_STREAM with NO_ERROR may follow, because the request
/// may not have arrived in full (RFC 9113, section 8.1).
fn assert_trailers_only(frames: &[&RawFrame], context: &str) {
    let [headers, resets @ ..] = frames else {
        panic!("{context}: no frame");
    };
    let resets: Vec<_> = resets.iter().map(|frame| frame.reset_code()).collect();
    let is_end = headers.is_headers_with_end() && matches!(resets[..], [] | [Some(0)]);
    assert!(is_end, "{context}: {frames:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_one_headers_frame_and_leaves_the_connection_usable() {
    let refusals = Refusals::new().await;
    let mut checked = 0;
    for (index, (guard, valid)) in refusals.guards.iter().enumerate() {
        for (server, address) in servers(guard).await {
            for refused in refusals.calls.iter().filter(|call| call.guard == index) {
                let context = format!("{server}, {}", refused.name);
                // One connection for all uploads, so that each follows a refusal.
                let mut connection = Connection::open(&address).await;
                let mut streams = Vec::new();
                for upload in Upload::ALL {
                    let mut request = call("Upload", &refused.authorization);
                    let uri = format!("{}{}", request.uri(), refused.query);
                    *request.uri_mut() = uri.parse().unwrap();
                    let (head, stream) = connection.exchange(request, upload).await;
                    assert_is_refusal(&head, refused, &context);
                    streams.push((upload, stream));
                    checked += 1;
                }
                if let Some(valid) = valid {
                    let request = call("Upload", &bearer(valid));
                    let (head, _) = connection.exchange(request, Upload::Complete).await;
                    let status = head.headers().get("grpc-status");
                    assert!(status.is_none_or(|status| status == "0"), "{context}");
                }
                let frames = connection.close().await;
                for (upload, stream) in streams {
                    let of_stream: Vec<_> = frames
                        .iter()
                        .filter(|frame| frame.stream == stream)
                        .collect();
                    assert_trailers_only(&of_stream, &format!("{context}, {upload:?}"));
                }
                let goes_away = frames.iter().any(|frame| frame.kind == GO_AWAY);
                assert!(!goes_away, "{context}");
            }
        }
    }
    assert_eq!(checked, 3 * Upload::ALL.len() * refusals.calls.len());
}

fn assert_is_refusal(head: &Response<()>, refused: &RefusedCall, context: &str) {
    let headers = head.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut headers: BTreeMap<_, _> = headers.collect();
    headers.remove("date");
    let status = refused.status.to_string();
    let mut expected = BTreeMap::from([
        ("cache-control", "no-store"),
        ("content-type", "application/grpc"),
        ("grpc-status", &*status),
    ]);
    expected.extend(refused.message.map(|message| ("grpc-message", message)));
    assert_eq!(head.status(), 200, "{context}");
    assert_eq!(headers, expected, "{context}");
}

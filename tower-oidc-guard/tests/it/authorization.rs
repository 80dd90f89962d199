//! Decisions on tokens and requests that do not go through the guard's layer.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode, header};
use tower_oidc_guard::{Identity, OidcGuard, Policy, Rejection, TokenError};

use crate::support::in_memory::{GKE_SA, cluster, guard_builder, send_request, token_spec};
use crate::support::{bearer_request, request};

fn guard(cluster: &tower_oidc_guard::testing::MemoryIssuer) -> OidcGuard {
    let guard = guard_builder(cluster).policy(Policy::members([GKE_SA]));
    guard.build().unwrap()
}

#[tokio::test]
async fn authorize_verifies_the_token_and_evaluates_the_policy() {
    let cluster = cluster();
    let guard = guard(&cluster);
    let token = token_spec(&cluster);
    // The first token waits for the keys.
    let caller = guard.authorize(token.mint()).await.unwrap();
    assert_eq!(caller.subject(), GKE_SA);
    let stranger = token.clone().service_account("a", "b").mint();
    let rejection = guard.authorize(&stranger).await.unwrap_err();
    assert_eq!(rejection, Rejection::NotAllowed);
    assert!(guard.verifier().verify(&stranger).await.is_ok());
    for (token, expected) in [
        (token.clone().claim("exp", 1).mint(), TokenError::Expired),
        (token.bad_signature().mint(), TokenError::BadSignature),
    ] {
        let rejection = guard.authorize(token).await.unwrap_err();
        assert_eq!(rejection, Rejection::InvalidToken(expected));
        assert!(!rejection.is_transient());
    }
}

#[tokio::test(start_paused = true)]
async fn authorize_returns_a_transient_rejection_until_there_are_keys() {
    let cluster = cluster();
    let guard = guard(&cluster);
    cluster.fail(StatusCode::BAD_GATEWAY);
    let token = token_spec(&cluster).mint();
    let rejection = guard.authorize(&token).await.unwrap_err();
    assert!(rejection.is_transient());
    let Rejection::KeysUnavailable { retry_after } = rejection else {
        panic!("{rejection}");
    };
    cluster.recover();
    tokio::time::sleep(retry_after).await;
    let caller = guard.authorize(&token).await;
    assert_eq!(caller.unwrap().subject(), GKE_SA);
}

#[tokio::test]
async fn authorize_needs_a_token_even_if_the_policy_allows_requests_without_one() {
    let cluster = cluster();
    let guard = guard_builder(&cluster).policy(Policy::members(["allUsers"]));
    let guard = guard.build().unwrap();
    assert!(guard.authorize("").await.is_err());
    assert!(guard.authorize(token_spec(&cluster).mint()).await.is_ok());
}

#[tokio::test]
async fn admit_prepares_a_request_like_the_layer() {
    let cluster = cluster();
    let guard = guard(&cluster);
    // The first request waits for the keys.
    let mut admitted = bearer_request(&token_spec(&cluster).mint());
    guard.admit(&mut admitted).await.unwrap();
    let caller = admitted.extensions().get::<Identity>();
    assert_eq!(caller.map(Identity::subject), Some(GKE_SA));
    assert!(admitted.headers()[header::AUTHORIZATION].is_sensitive());

    let stripping = guard_builder(&cluster).any_verified_caller().strip_token();
    let mut admitted = bearer_request(&token_spec(&cluster).mint());
    let stripping = stripping.build().unwrap();
    stripping.admit(&mut admitted).await.unwrap();
    assert!(!admitted.headers().contains_key(header::AUTHORIZATION));

    // An identity that is already there is removed, also if the request is admitted without one.
    let optional = guard_builder(&cluster).any_verified_caller();
    let optional = optional.allow_missing_token().build().unwrap();
    let mut anonymous = request(&[]);
    *anonymous.extensions_mut() = admitted.extensions().clone();
    optional.admit(&mut anonymous).await.unwrap();
    assert!(anonymous.extensions().get::<Identity>().is_none());
}

#[tokio::test]
async fn admit_returns_the_response_of_the_layer() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .rejection_response(|rejection, response| response.map(|_| rejection.reason().into()))
        .build()
        .unwrap();
    let stranger = token_spec(&cluster).service_account("a", "b").mint();
    let stranger = format!("Bearer {stranger}");
    for authorization in [
        &[][..],
        &["Basic YTpi"],
        &["Bearer x"],
        &["Bearer x", "Bearer x"],
        &[&*stranger],
    ] {
        for content_type in [None, Some("application/grpc")] {
            let request = || {
                let mut request = request(authorization);
                if let Some(content_type) = content_type {
                    *request.method_mut() = http::Method::POST;
                    let value = content_type.parse().unwrap();
                    request.headers_mut().insert("content-type", value);
                }
                request
            };
            let (mut rejected, sent) = (request(), request());
            let response = guard.admit(&mut rejected).await.unwrap_err();
            assert!(rejected.extensions().get::<Identity>().is_none());
            let of_layer = send_request(guard.layer(), sent).await;
            let parts = |response: Response<Vec<u8>>| {
                let (parts, body) = response.into_parts();
                (parts.status, parts.headers, body)
            };
            let response = response.map(|body| body.to_vec());
            assert_eq!(parts(response), parts(of_layer), "{authorization:?}");
        }
    }
}

#[tokio::test]
async fn the_futures_can_be_spawned() {
    let cluster = cluster();
    let (guard, token) = (guard(&cluster), token_spec(&cluster).mint());
    let authorized = tokio::spawn({
        let (guard, token) = (guard.clone(), token.clone());
        async move { guard.authorize(token).await }
    });
    assert!(authorized.await.unwrap().is_ok());
    let admitted = tokio::spawn(async move {
        let mut request: Request<_> = bearer_request(&token);
        guard.admit(&mut request).await
    });
    assert!(admitted.await.unwrap().is_ok());
}

#[tokio::test]
async fn decisions_on_tokens_and_requests_are_audited() {
    let cluster = cluster();
    let decisions = Arc::new(Mutex::new(Vec::new()));
    let received = decisions.clone();
    let guard = guard_builder(&cluster)
        .policy(Policy::members([GKE_SA]))
        .on_decision(move |event| {
            let subject = event.subject.map(str::to_owned);
            let decision = (event.reason, subject, event.method.cloned());
            received.lock().unwrap().push(decision);
        })
        .build()
        .unwrap();
    let token = token_spec(&cluster);
    let stranger = token.clone().service_account("a", "b").mint();
    guard.authorize(token.mint()).await.unwrap();
    guard.authorize(stranger).await.unwrap_err();
    guard.authorize("x").await.unwrap_err();
    let mut admitted = bearer_request(&token.mint());
    guard.admit(&mut admitted).await.unwrap();
    guard.admit(&mut request(&[])).await.unwrap_err();
    let caller = || Some(GKE_SA.to_owned());
    let stranger = || Some("system:serviceaccount:a:b".to_owned());
    let get = || Some(http::Method::GET);
    let expected = [
        ("allowed", caller(), None),
        ("not_allowed", stranger(), None),
        ("malformed", None, None),
        ("allowed", caller(), get()),
        ("missing_token", None, get()),
    ];
    assert_eq!(*decisions.lock().unwrap(), expected);
}

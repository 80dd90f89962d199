//! Where the token comes from, and what passes without one.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderName, Method, Request, Response};
use support::stage::{GKE_SA, SERVERLESS, answer, cluster, settings, spec};
use support::{Body, bearer, request};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::OidcGuardBuilder;

const IAP: HeaderName = HeaderName::from_static("x-goog-iap-jwt-assertion");

#[tokio::test]
async fn only_a_true_preflight_passes_and_only_where_that_is_switched_on() {
    let preflight = |method: Method, headers: &[&'static str]| {
        let mut request = Request::new(Body::new());
        *request.method_mut() = method;
        for name in headers {
            request.headers_mut().insert(*name, "x".parse().unwrap());
        }
        request
    };
    let whole = ["origin", "access-control-request-method"];
    let off = settings(&cluster()).any_verified_caller().build().unwrap();
    assert_eq!(
        answer(off.layer(), preflight(Method::OPTIONS, &whole))
            .await
            .status(),
        401
    );
    let on = settings(&cluster())
        .any_verified_caller()
        .allow_cors_preflight()
        .build()
        .unwrap();
    assert_eq!(
        answer(on.layer(), preflight(Method::OPTIONS, &whole))
            .await
            .body(),
        b"nobody"
    );
    for (method, headers) in [
        (Method::OPTIONS, &whole[..1]),
        (Method::OPTIONS, &whole[1..]),
        (Method::GET, &whole),
        (Method::OPTIONS, &[]),
    ] {
        let response = answer(on.layer(), preflight(method, headers)).await;
        assert_eq!(response.status(), 401, "{headers:?}");
    }
}

#[tokio::test]
async fn an_optional_guard_lets_in_who_has_no_token_and_refuses_a_bad_one() {
    let cluster = cluster();
    let guard = settings(&cluster)
        .any_verified_caller()
        .optional()
        .build()
        .unwrap();
    assert_eq!(answer(guard.layer(), request(&[])).await.body(), b"nobody");
    assert_eq!(
        answer(guard.layer(), bearer(&spec(&cluster).mint()))
            .await
            .body(),
        GKE_SA.as_bytes()
    );
    let expired = spec(&cluster).claim("exp", 1).mint();
    assert_eq!(answer(guard.layer(), bearer(&expired)).await.status(), 401);
    assert_eq!(
        answer(guard.layer(), request(&["Bearer a", "Bearer b"]))
            .await
            .status(),
        400
    );
}

/// The status of a request with these headers, for a guard of these settings.
async fn with(
    build: impl Fn(OidcGuardBuilder) -> OidcGuardBuilder,
    headers: &[(HeaderName, &str)],
) -> u16 {
    let cluster = cluster();
    let token = spec(&cluster).mint();
    let guard = build(settings(&cluster).any_verified_caller())
        .build()
        .unwrap();
    let mut request = request(&[]);
    for (name, value) in headers {
        let value = value.replace("TOKEN", &token);
        request.headers_mut().append(name, value.parse().unwrap());
    }
    answer(guard.layer(), request).await.status().as_u16()
}

#[tokio::test]
async fn the_token_is_taken_from_other_headers() {
    for header in [SERVERLESS, IAP, PROXY_AUTHORIZATION] {
        let from = |builder: OidcGuardBuilder| builder.token_from([header.clone()]);
        assert_eq!(
            with(from, &[(header.clone(), "Bearer TOKEN")]).await,
            200,
            "{header}"
        );
        assert_eq!(
            with(from, &[(AUTHORIZATION, "Bearer TOKEN")]).await,
            401,
            "{header}"
        );
    }
    assert_eq!(
        with(|builder| builder.token_from([IAP]), &[(IAP, "TOKEN")]).await,
        200
    );
    let first = |builder: OidcGuardBuilder| builder.token_from([SERVERLESS, AUTHORIZATION]);
    assert_eq!(with(first, &[(AUTHORIZATION, "Bearer TOKEN")]).await, 200);
    assert_eq!(
        with(
            first,
            &[(AUTHORIZATION, "Bearer x"), (SERVERLESS, "Bearer TOKEN")]
        )
        .await,
        200
    );
    assert_eq!(
        with(
            first,
            &[(AUTHORIZATION, "Bearer TOKEN"), (SERVERLESS, "Bearer x")]
        )
        .await,
        401
    );
    let one =
        |builder: OidcGuardBuilder| builder.token_from_exactly_one_of([SERVERLESS, AUTHORIZATION]);
    assert_eq!(with(one, &[(AUTHORIZATION, "Bearer TOKEN")]).await, 200);
    assert_eq!(
        with(
            one,
            &[
                (AUTHORIZATION, "Bearer TOKEN"),
                (SERVERLESS, "Bearer TOKEN")
            ]
        )
        .await,
        400
    );
}

#[tokio::test]
async fn the_token_can_be_stripped_before_the_service_sees_it() {
    let cluster = cluster();
    for (strips, expected) in [(true, "false"), (false, "true")] {
        let builder = settings(&cluster).any_verified_caller();
        let builder = if strips {
            builder.strip_token()
        } else {
            builder
        };
        let sees = service_fn(|request: Request<Body>| async move {
            let sees = request.headers().contains_key(AUTHORIZATION);
            Ok::<_, std::convert::Infallible>(Response::new(sees.to_string()))
        });
        let service = builder.build().unwrap().layer().layer(sees);
        let response = service
            .oneshot(bearer(&spec(&cluster).mint()))
            .await
            .unwrap();
        assert_eq!(support::text(response).await, expected);
    }
}

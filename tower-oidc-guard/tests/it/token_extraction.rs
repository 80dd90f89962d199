//! Extracting the token from a request, and requests without a token: CORS preflights, optional guards.

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderName, Method, Request, Response};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{OidcGuardBuilder, Policy};

use crate::support::in_memory::{
    GKE_SA, SERVERLESS, cluster, guard_builder, send_request, token_spec, token_status,
};
use crate::support::logs::assert_absent;
use crate::support::{Body, bearer_request, body_text, echo_subject, guard, request, valid_token};

const IAP: HeaderName = HeaderName::from_static("x-goog-iap-jwt-assertion");

#[tokio::test]
async fn only_real_preflights_are_admitted_and_only_if_enabled() {
    let preflight = |method: Method, headers: &[&'static str]| {
        let mut request = Request::new(Body::new());
        *request.method_mut() = method;
        for name in headers {
            request.headers_mut().insert(*name, "x".parse().unwrap());
        }
        request
    };
    let whole = ["origin", "access-control-request-method"];
    let off = guard_builder(&cluster())
        .any_verified_caller()
        .build()
        .unwrap();
    assert_eq!(
        send_request(off.layer(), preflight(Method::OPTIONS, &whole))
            .await
            .status(),
        401
    );
    let on = guard_builder(&cluster())
        .any_verified_caller()
        .allow_cors_preflight()
        .build()
        .unwrap();
    assert_eq!(
        send_request(on.layer(), preflight(Method::OPTIONS, &whole))
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
        let response = send_request(on.layer(), preflight(method, headers)).await;
        assert_eq!(response.status(), 401, "{headers:?}");
    }
}

#[tokio::test]
async fn optional_guard_admits_requests_without_a_token_and_rejects_invalid_tokens() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .allow_missing_token()
        .build()
        .unwrap();
    assert_eq!(
        send_request(guard.layer(), request(&[])).await.body(),
        b"nobody"
    );
    assert_eq!(
        send_request(guard.layer(), bearer_request(&token_spec(&cluster).mint()))
            .await
            .body(),
        GKE_SA.as_bytes()
    );
    let expired = token_spec(&cluster).claim("exp", 1).mint();
    assert_eq!(token_status(guard.layer(), &expired).await, 401);
    assert_eq!(
        send_request(guard.layer(), request(&["Bearer a", "Bearer b"]))
            .await
            .status(),
        400
    );
}

#[tokio::test]
async fn preflight_with_credentials_is_malformed() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let builder = || {
        guard_builder(&cluster)
            .any_verified_caller()
            .allow_cors_preflight()
    };
    let preflight = |header: Option<(HeaderName, &str)>, uri: &str| {
        let request = Request::options(uri).header("origin", "https://a.example");
        let mut request = request
            .header("access-control-request-method", "GET")
            .body(Body::new())
            .unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    let bearer = format!("Bearer {token}");
    for guard in [
        builder().build().unwrap(),
        builder().allow_missing_token().build().unwrap(),
        builder().token_from([SERVERLESS]).build().unwrap(),
    ] {
        for value in [&*bearer, "Bearer x", "Basic YTpi", ""] {
            let response =
                send_request(guard.layer(), preflight(Some((AUTHORIZATION, value)), "/")).await;
            assert_eq!(response.status(), 400, "{value}");
        }
        let response = send_request(guard.layer(), preflight(None, "/?a&access%5Ftoken=x")).await;
        assert_eq!(response.status(), 400);
        let response = send_request(guard.layer(), preflight(None, "/?a=b")).await;
        assert_eq!(response.body(), b"nobody");
    }
    let other = builder().token_from([IAP, SERVERLESS]).build().unwrap();
    for name in [IAP, SERVERLESS] {
        let response = send_request(other.layer(), preflight(Some((name, &bearer)), "/")).await;
        assert_eq!(response.status(), 400);
    }
    let response = send_request(
        other.layer(),
        preflight(Some((PROXY_AUTHORIZATION, "x")), "/"),
    )
    .await;
    assert_eq!(
        response.body(),
        b"nobody",
        "no token is expected in this header"
    );
}

#[tokio::test]
async fn malformed_bearer_credentials_are_never_treated_as_anonymous() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let builder = || guard_builder(&cluster).any_verified_caller();
    let guards = [
        builder().allow_missing_token().build().unwrap(),
        guard_builder(&cluster)
            .policy(Policy::members(["allUsers"]))
            .build()
            .unwrap(),
        builder().build().unwrap(),
    ];
    for guard in &guards {
        for value in [
            "Bearer  TOKEN",
            "Bearer\tTOKEN",
            "Bearer \tTOKEN",
            "BEARER   TOKEN",
            "Bearer\u{a0}TOKEN",
            "Bearer:TOKEN",
            "Bearer: TOKEN",
            "Bearer,TOKEN",
            "Bearer=TOKEN",
            "BearerTOKEN",
            "Basic YTpi, Bearer TOKEN",
            "Basic YTpi,Bearer TOKEN",
            "Basic YTpi Bearer TOKEN",
            "Bearer TOKEN, Bearer TOKEN",
            "Bearer TOKEN,",
            "Bearer TOKEN, Basic YTpi",
            "Bearer TOKEN x",
            "Bearer x TOKEN",
            "Bearer a.b .c",
            "\u{a0}Bearer TOKEN",
            "\"Bearer TOKEN\"",
        ] {
            let value = value.replace("TOKEN", &token);
            let mut request = request(&[]);
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().insert(AUTHORIZATION, value.clone());
            let response = send_request(guard.layer(), request).await;
            assert_eq!(response.status(), 400, "{value:?}");
        }
        for uri in [
            "/?access_token=TOKEN",
            "/?access%5Ftoken=TOKEN",
            "/?%61ccess_token=TOKEN",
            "/?a=b;access_token=TOKEN",
            "/?a=b&Access_Token=TOKEN",
        ] {
            let mut request = request(&[]);
            *request.uri_mut() = uri.replace("TOKEN", &token).parse().unwrap();
            assert_eq!(
                send_request(guard.layer(), request).await.status(),
                400,
                "{uri}"
            );
        }
    }
    // In the configured headers.
    let other = builder()
        .token_from([SERVERLESS, IAP])
        .allow_missing_token();
    let other = other.build().unwrap();
    for name in [SERVERLESS, IAP] {
        for value in [
            "Bearer  TOKEN",
            "Bearer TOKEN, TOKEN",
            "TOKEN TOKEN",
            "BearerTOKEN",
        ] {
            let mut request = request(&[]);
            let value = value.replace("TOKEN", &token);
            request.headers_mut().insert(&name, value.parse().unwrap());
            assert_eq!(
                send_request(other.layer(), request).await.status(),
                400,
                "{value}"
            );
        }
    }
    // Credentials of another scheme are left to the service.
    for value in ["Basic YTpi", "DPoP a.b.c", "Bearerx a.b.c"] {
        let response = send_request(guards[0].layer(), request(&[value])).await;
        assert_eq!(response.body(), b"nobody", "{value}");
    }
}

#[tokio::test]
async fn token_headers_are_marked_sensitive() {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let shown = |builder: OidcGuardBuilder, request: Request<Body>| async move {
        let shows = service_fn(|request: Request<Body>| async move {
            let text = format!("{:?} {request:?}", request.headers());
            Ok::<_, std::convert::Infallible>(Response::new(text))
        });
        let service = builder.build().unwrap().layer().layer(shows);
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        body_text(response).await
    };
    let builder = || guard_builder(&cluster).any_verified_caller();
    let with = |headers: &[(HeaderName, &str)]| {
        let mut request = request(&[]);
        for (name, value) in headers {
            let value = value.replace("TOKEN", &token);
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    };
    let text = shown(builder(), with(&[(AUTHORIZATION, "Bearer TOKEN")])).await;
    assert!(text.contains("Sensitive"), "{text}");
    assert_absent(&token, &text);
    // Credentials of another scheme, admitted without a token.
    let text = shown(
        builder().allow_missing_token(),
        with(&[(AUTHORIZATION, "Basic c2VjcmV0")]),
    )
    .await;
    assert!(
        text.contains("Sensitive") && !text.contains("c2VjcmV0"),
        "{text}"
    );
    // In other configured headers, including repeated ones.
    let several = [
        (AUTHORIZATION, "Bearer TOKEN"),
        (AUTHORIZATION, "Basic c2VjcmV0"),
        (SERVERLESS, "Bearer TOKEN"),
    ];
    let from = builder().token_from([SERVERLESS, AUTHORIZATION]);
    let text = shown(from, with(&several)).await;
    assert!(!text.contains("c2VjcmV0"), "{text}");
    assert_absent(&token, &text);
    // The first request waits for the keys; the second finds its token in the cache.
    let guard = builder().build().unwrap();
    for _ in 0..2 {
        let shows = service_fn(|request: Request<Body>| async move {
            let text = format!("{:?}", request.headers());
            Ok::<_, std::convert::Infallible>(Response::new(text))
        });
        let service = guard.layer().layer(shows);
        let text = body_text(service.oneshot(bearer_request(&token)).await.unwrap()).await;
        assert_absent(&token, &text);
    }
}

/// Sends a request with these headers to a guard with these settings and returns the status.
async fn status_with_headers(
    build: impl Fn(OidcGuardBuilder) -> OidcGuardBuilder,
    headers: &[(HeaderName, &str)],
) -> u16 {
    let cluster = cluster();
    let token = token_spec(&cluster).mint();
    let guard = build(guard_builder(&cluster).any_verified_caller())
        .build()
        .unwrap();
    let mut request = request(&[]);
    for (name, value) in headers {
        let value = value.replace("TOKEN", &token);
        request.headers_mut().append(name, value.parse().unwrap());
    }
    send_request(guard.layer(), request).await.status().as_u16()
}

#[tokio::test]
async fn token_is_read_from_configured_headers() {
    for header in [SERVERLESS, IAP, PROXY_AUTHORIZATION] {
        let from = |builder: OidcGuardBuilder| builder.token_from([header.clone()]);
        assert_eq!(
            status_with_headers(from, &[(header.clone(), "Bearer TOKEN")]).await,
            200,
            "{header}"
        );
        assert_eq!(
            status_with_headers(from, &[(AUTHORIZATION, "Bearer TOKEN")]).await,
            401,
            "{header}"
        );
    }
    assert_eq!(
        status_with_headers(|builder| builder.token_from([IAP]), &[(IAP, "TOKEN")]).await,
        200
    );
    let first = |builder: OidcGuardBuilder| builder.token_from([SERVERLESS, AUTHORIZATION]);
    assert_eq!(
        status_with_headers(first, &[(AUTHORIZATION, "Bearer TOKEN")]).await,
        200
    );
    assert_eq!(
        status_with_headers(
            first,
            &[(AUTHORIZATION, "Bearer x"), (SERVERLESS, "Bearer TOKEN")]
        )
        .await,
        200
    );
    assert_eq!(
        status_with_headers(
            first,
            &[(AUTHORIZATION, "Bearer TOKEN"), (SERVERLESS, "Bearer x")]
        )
        .await,
        401
    );
    let one =
        |builder: OidcGuardBuilder| builder.token_from_exactly_one_of([SERVERLESS, AUTHORIZATION]);
    assert_eq!(
        status_with_headers(one, &[(AUTHORIZATION, "Bearer TOKEN")]).await,
        200
    );
    assert_eq!(
        status_with_headers(
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
async fn token_can_be_removed_before_the_service_is_called() {
    let cluster = cluster();
    for (strips, expected) in [(true, "false"), (false, "true")] {
        let builder = guard_builder(&cluster).any_verified_caller();
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
            .oneshot(bearer_request(&token_spec(&cluster).mint()))
            .await
            .unwrap();
        assert_eq!(body_text(response).await, expected);
    }
}

#[tokio::test]
async fn bearer_scheme_is_case_insensitive() {
    let issuer = TestIssuer::start().await.unwrap();
    let service = guard(issuer.url()).layer().layer(service_fn(echo_subject));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let sent = request(&[&format!("{scheme} {}", valid_token(&issuer))]);
        let response = service.clone().oneshot(sent).await.unwrap();
        assert_eq!(response.status(), 200, "{scheme}");
    }
}

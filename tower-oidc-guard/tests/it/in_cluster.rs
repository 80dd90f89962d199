//! `Issuer::in_cluster`, with documents recorded from real API servers.
#![cfg(unix)]

use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{
    BuildError, Issuer, KeysError, OidcGuard, Platform, Policy, TokenError, VerifyError,
};

use crate::support::kubernetes::{Pod, publish, publish_mapped};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::recorded::{ISSUER, V1_20, V1_36, numeric_claim, recorded_token};
use crate::support::{AUDIENCE, advance_clock, unix_time, wait_until};

#[tokio::test]
async fn pomerium_6592_issuer_comes_from_the_pod_token_and_keys_from_the_api_server() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let guard = pod.guard();
    assert!(
        pod.api.requests().is_empty(),
        "building a guard sends no request"
    );
    let identity = guard.verifier().verify(&pod.caller_token).await.unwrap();
    assert_eq!(identity.issuer(), ISSUER);
    assert_eq!(identity.platform(), Platform::Kubernetes);
    assert_eq!(
        identity.subject(),
        "system:serviceaccount:id-namespace:gke-sa"
    );
    assert_eq!(guard.health()[0].issuer, ISSUER);
    let own = recorded_token(V1_36, "gke-sa-api-audience.jwt");
    // The advertised `jwks_uri` is the address of a node, where nothing listens.
    let own = Some(own);
    assert_eq!(
        pod.successful_requests(),
        [
            ("/.well-known/openid-configuration".to_owned(), own.clone()),
            ("/openid/v1/jwks".to_owned(), own),
        ]
    );
}

#[tokio::test]
async fn each_document_is_requested_with_its_own_media_type() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    pod.guard().ready().await.unwrap();
    let accepted: Vec<_> = pod
        .api
        .requests()
        .into_iter()
        .map(|request| request.headers[http::header::ACCEPT].clone())
        .collect();
    assert_eq!(
        accepted,
        [
            "application/json",
            "application/jwk-set+json, application/json"
        ]
    );
}

#[tokio::test]
async fn status_error_contains_the_request_and_a_hint_only_for_401_and_403() {
    const BEFORE: &str = "GET https://127.0.0.1:";
    for (status, hint) in [
        (StatusCode::NOT_ACCEPTABLE, None),
        (StatusCode::INTERNAL_SERVER_ERROR, None),
        (StatusCode::UNAUTHORIZED, Some("pod's token")),
        (
            StatusCode::FORBIDDEN,
            Some("system:service-account-issuer-discovery"),
        ),
    ] {
        let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
        pod.api.map_responses(move |request, mut response| {
            if request.uri().path() == "/openid/v1/jwks" {
                *response.status_mut() = status;
            }
            response
        });
        let error = pod.guard().ready().await.unwrap_err();
        let text = error.cause().to_string();
        let request = format!(
            "/openid/v1/jwks returned {status} (sent Accept: application/jwk-set+json, application/json)"
        );
        assert!(
            text.starts_with(BEFORE) && text.contains(&request),
            "{text}"
        );
        match hint {
            Some(hint) => assert!(text.contains(hint), "{text}"),
            None => assert!(text.ends_with(')'), "{text}"),
        }
    }
}

#[tokio::test]
async fn issuer_comes_from_discovery_if_the_pod_token_is_a_legacy_token() {
    let pod = Pod::new(V1_20, "automounted-legacy.jwt").await;
    let guard = pod.guard();
    let identity = guard.verifier().verify(&pod.caller_token).await.unwrap();
    assert_eq!(identity.issuer(), ISSUER);
    let legacy = guard
        .verifier()
        .verify(recorded_token(V1_20, "automounted-legacy.jwt"))
        .await;
    assert!(
        legacy.is_err(),
        "a legacy token has no audience and no expiry"
    );
}

#[tokio::test]
async fn api_server_is_reachable_over_ipv6() {
    let pod =
        Pod::with_api_address(V1_36, "gke-sa-api-audience.jwt", Ipv6Addr::LOCALHOST.into()).await;
    assert!(
        pod.guard()
            .verifier()
            .verify(&pod.caller_token)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn rotated_token_and_ca_files_are_reloaded() {
    let mut pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let guard = pod.guard();
    guard.ready().await.unwrap();
    let before = pod.successful_requests().len();
    // Replaces the CA and the pod's own token, and closes the old connections.
    pod.api.replace_ca().unwrap();
    pod.api.stop().await;
    pod.api.restart().await.unwrap();
    let own = recorded_token("v1.36/after-key-rotation", "gke-sa-api-audience.jwt");
    pod.api.accept_token(own.as_str(), "id-namespace", "guard");
    publish(&pod.api, "v1.36/after-key-rotation");
    pod.kubelet
        .write([("token", own.as_str()), ("ca.crt", &pod.api.ca_pem())])
        .unwrap();
    advance_clock(Duration::from_secs(3600)).await;
    wait_until(async || {
        let known = guard.verifier().verify(&pod.caller_token).await;
        assert!(known.is_ok(), "a token with a known key is rejected");
        guard.health()[0].usable_keys == 2
    })
    .await;
    let after = pod.successful_requests().split_off(before);
    assert!(after.iter().all(|(_, sent)| sent.as_ref() == Some(&own)));
}

#[tokio::test]
async fn api_server_audience_does_not_build() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    for audience in [ISSUER, "https://kubernetes.default.svc"] {
        let built = pod.build(pod.issuer().audience(AUDIENCE).audience(audience));
        assert!(
            matches!(built, Err(BuildError::ApiServerAudience { .. })),
            "{audience}"
        );
    }
}

#[tokio::test]
async fn api_server_audience_is_accepted_with_dangerous_accept_api_server_audience() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let issuer = pod.issuer().audience(ISSUER);
    let guard = pod.build(issuer.dangerous_accept_api_server_audience());
    let guard = guard.unwrap();
    let own = recorded_token(V1_36, "gke-sa-api-audience.jwt");
    assert!(guard.ready().await.is_ok());
    assert_ne!(
        guard.verifier().verify(&own).await.err(),
        Some(VerifyError::InvalidToken(TokenError::WrongAudience))
    );
}

#[tokio::test]
async fn api_server_audience_found_by_discovery_makes_the_fetch_fail() {
    let pod = Pod::new(V1_20, "automounted-legacy.jwt").await;
    publish_mapped(&pod.api, V1_20, |document| {
        document.replace(ISSUER, "https://issuer.example")
    });
    for audience in ["https://issuer.example", "https://issuer.example/"] {
        let guard = pod.build(pod.issuer().audience(audience)).unwrap();
        let error = guard.ready().await.unwrap_err();
        assert!(
            matches!(error.cause(), KeysError::ApiServerAudience { .. }),
            "{error:?}"
        );
    }
    let accepting = pod.issuer().audience("https://issuer.example");
    let guard = pod.build(accepting.dangerous_accept_api_server_audience());
    assert!(guard.unwrap().ready().await.is_ok());
}

#[test]
fn error_outside_a_cluster_names_the_missing_variable() {
    let text = Issuer::in_cluster().unwrap_err().to_string();
    assert!(
        text.contains("KUBERNETES_SERVICE_HOST") && text.contains("Issuer::kubernetes"),
        "{text}"
    );
}

#[tokio::test]
async fn error_names_a_missing_token_file() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let missing = "/nowhere/to/be/found/token";
    let built = pod.build(pod.issuer().audience(AUDIENCE).api_token_file(missing));
    let text = built.unwrap_err().to_string();
    assert!(text.contains(missing), "{text}");
}

#[tokio::test]
async fn keycloak_50224_pod_token_is_not_sent_after_a_redirect() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    pod.api.map_responses(|_, mut response| {
        *response.status_mut() = StatusCode::FOUND;
        let elsewhere = http::HeaderValue::from_static("https://127.0.0.1:1/");
        response
            .headers_mut()
            .insert(http::header::LOCATION, elsewhere);
        response
    });
    let error = pod.guard().ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::CrossOriginRedirect { origin, hint: None, .. } if origin == "https://127.0.0.1:1"),
        "{error:?}"
    );
}

#[tokio::test]
async fn keycloak_50224_pod_token_is_not_sent_to_a_server_with_another_ca() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let other = FakeApiServer::start().await.unwrap();
    pod.kubelet.rotate("ca.crt", other.ca_pem()).unwrap();
    let error = pod.guard().ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Request { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("not signed by a CA in the file of `api_ca_file`"),
        "{text}"
    );
    assert!(pod.api.requests().is_empty());
}

#[tokio::test]
async fn error_names_the_key_request_that_a_cluster_forbids() {
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    pod.api.map_responses(|request, mut response| {
        if request.uri().path() == "/openid/v1/jwks" {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        response
    });
    let error = pod.guard().ready().await.unwrap_err();
    let text = error.cause().to_string();
    assert!(text.contains("/openid/v1/jwks returned 403"), "{text}");
}

/// The environment variable with the path of the pod's volume.
const VOLUME: &str = "TEST_VOLUME";

#[tokio::test(flavor = "multi_thread")]
async fn pod_environment_variables_suffice_to_find_the_api_server() {
    if is_child_process() {
        let volume = std::env::var_os(VOLUME).unwrap();
        return verify_with_pod_environment(volume.as_ref()).await;
    }
    let pod = Pod::new(V1_36, "gke-sa-api-audience.jwt").await;
    let (host, port) = (pod.api.host(), pod.api.port());
    let volume = pod.kubelet.path("");
    let child = tokio::task::spawn_blocking(move || {
        run_in_child_process(
            "in_cluster::pod_environment_variables_suffice_to_find_the_api_server",
            &[
                ("KUBERNETES_SERVICE_HOST", host.as_ref()),
                ("KUBERNETES_SERVICE_PORT", port.as_ref()),
                // Requests through this proxy fail, since nothing listens there.
                ("HTTPS_PROXY", "http://127.0.0.1:1".as_ref()),
                (VOLUME, volume.as_ref()),
            ],
        );
    });
    child.await.unwrap();
}

/// Verifies a recorded token in a process that has the environment of a pod.
async fn verify_with_pod_environment(volume: &Path) {
    let caller = recorded_token(V1_36, "gke-sa-600s.jwt");
    let now = numeric_claim(&caller, "iat").unwrap() + 1;
    let issuer = Issuer::in_cluster()
        .unwrap()
        .api_token_file(volume.join("token"))
        .api_ca_file(volume.join("ca.crt"));
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        .any_verified_caller()
        .clock(move || unix_time(now))
        .build();
    assert!(guard.unwrap().verifier().verify(&caller).await.is_ok());
}

#[tokio::test]
async fn deny_list_with_a_former_issuer_name_denies_callers_with_the_new_name() {
    const NEW_NAME: &str = "https://new.example";
    let api = FakeApiServer::start().await.unwrap();
    api.set_issuers([ISSUER]);
    let volume = tempfile::tempdir().unwrap();
    let kubelet = reqwest_wi_auth::testing::Kubelet::new(volume.path()).unwrap();
    let mount = || {
        let own = api.pod_token("shop", "guard");
        let files = [("token", own.as_str()), ("ca.crt", &api.ca_pem())];
        kubelet.write(files).unwrap();
    };
    mount();
    let issuer = Issuer::in_cluster_at(&api.host(), &api.port())
        .unwrap()
        .api_token_file(kubelet.path("token"))
        .api_ca_file(kubelet.path("ca.crt"));
    let web = "system:serviceaccount:shop:web";
    let policy = Policy::any_verified_caller().deny([format!("principal:{ISSUER}#{web}")]);
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        .policy(policy)
        .build()
        .unwrap();
    guard.ready().await.unwrap();
    api.set_issuers([NEW_NAME, ISSUER]);
    mount();
    let token = |name: &str| api.token("shop", name).audience(AUDIENCE).mint();
    advance_clock(Duration::from_secs(3600)).await;
    wait_until(async || guard.verifier().verify(token("web")).await.is_ok()).await;
    let caller = guard.verifier().verify(token("web")).await.unwrap();
    let denied = guard.policy().explain(&caller);
    assert!(!denied.is_allowed(), "{denied}");
    let other = guard.verifier().verify(token("orders")).await.unwrap();
    assert!(guard.policy().explain(&other).is_allowed());
}

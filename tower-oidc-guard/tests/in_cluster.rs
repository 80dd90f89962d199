//! The issuer of the cluster that this runs in, against answers of real API servers.
#![cfg(all(feature = "testing", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::api_server::{ApiServer, Ca, recorded};
use support::pod::{ISSUER, NEW, OLD, Pod, folder, issued_at, token};
use support::{AUDIENCE, later, seconds};
use tower_oidc_guard::{BuildError, Issuer, KeysError, OidcGuard, Platform};

#[tokio::test]
async fn pomerium_6592_the_pod_s_own_token_names_the_issuer_and_the_api_server_has_the_keys() {
    let pod = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    let guard = pod.guard();
    assert!(pod.api.asked().is_empty(), "nothing is asked by building");
    let identity = guard.verifier().verify(&pod.caller).await.unwrap();
    assert_eq!(identity.issuer(), ISSUER);
    assert_eq!(identity.platform(), Platform::Kubernetes);
    assert_eq!(
        identity.subject(),
        "system:serviceaccount:id-namespace:gke-sa"
    );
    assert_eq!(guard.health()[0].issuer, ISSUER);
    let own = token(NEW, "gke-sa-api-audience.jwt");
    for (_, sent) in pod.api.asked() {
        assert_eq!(sent.as_ref(), Some(&own));
    }
    // The advertised address of the keys is that of a node, where nothing listens.
    let asked: Vec<_> = pod.api.asked().into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        asked,
        ["/.well-known/openid-configuration", "/openid/v1/jwks"]
    );
}

#[tokio::test]
async fn with_a_token_of_the_legacy_kind_the_discovery_document_names_the_issuer() {
    let pod = Pod::new(OLD, "automounted-legacy.jwt").await;
    let guard = pod.guard();
    let identity = guard.verifier().verify(&pod.caller).await.unwrap();
    assert_eq!(identity.issuer(), ISSUER);
    let legacy = guard
        .verifier()
        .verify(token(OLD, "automounted-legacy.jwt"))
        .await;
    assert!(
        legacy.is_err(),
        "that token itself is for nobody and for ever"
    );
}

#[tokio::test]
async fn an_api_server_is_reached_over_ipv6() {
    let pod = Pod::with(NEW, "gke-sa-api-audience.jwt", "[::1]:0", recorded).await;
    assert!(pod.guard().verifier().verify(&pod.caller).await.is_ok());
}

#[tokio::test]
async fn token_and_ca_are_read_afresh_when_they_rotate() {
    let Pod {
        api,
        ca: _ca,
        kubelet,
        volume,
        caller,
    } = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    let at = api.address.to_string();
    let pod = Pod {
        api,
        ca: Ca::new(),
        kubelet,
        volume,
        caller,
    };
    let guard = pod.guard();
    guard.ready().await.unwrap();
    let Pod {
        api,
        ca,
        kubelet,
        caller,
        ..
    } = pod;
    drop(api);
    tokio::task::yield_now().await;
    let own = token(NEW, "gke-sa-3600s.jwt");
    let api = ApiServer::start(
        &at,
        &ca,
        &folder("v1.36/after-key-rotation"),
        &[&own],
        recorded,
    )
    .await;
    kubelet
        .write([("token", own.as_str()), ("ca.crt", &ca.pem())])
        .unwrap();
    later(Duration::from_secs(3600)).await;
    let asked = || api.asked().len();
    for _ in 0..1000 {
        assert!(
            guard.verifier().verify(&caller).await.is_ok(),
            "a known key never fails"
        );
        if asked() == 2 && guard.health()[0].last_error.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(guard.health()[0].usable_keys, 2, "{:?}", guard.health());
}

#[tokio::test]
async fn an_audience_of_the_api_server_s_own_does_not_build() {
    let pod = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    for audience in [ISSUER, "https://kubernetes.default.svc"] {
        let built = pod.build(pod.issuer().audience(AUDIENCE).audience(audience));
        assert!(
            matches!(built, Err(BuildError::ApiAudience { .. })),
            "{audience}"
        );
    }
}

#[tokio::test]
async fn an_audience_that_only_discovery_shows_to_be_the_api_server_s_gets_no_keys() {
    fn renamed(folder: &Path, path: &str) -> (String, Vec<u8>) {
        let (status, body) = recorded(folder, path);
        let body = String::from_utf8(body).unwrap();
        (
            status,
            body.replace(ISSUER, "https://issuer.example").into_bytes(),
        )
    }
    let pod = Pod::with(OLD, "automounted-legacy.jwt", "127.0.0.1:0", renamed).await;
    let guard = pod
        .build(pod.issuer().audience("https://issuer.example"))
        .unwrap();
    let error = guard.ready().await.unwrap_err();
    assert!(
        matches!(error.reason(), KeysError::ApiAudience { .. }),
        "{error:?}"
    );
}

#[test]
fn outside_a_cluster_the_error_says_what_is_missing() {
    let text = Issuer::in_cluster().unwrap_err().to_string();
    assert!(
        text.contains("KUBERNETES_SERVICE_HOST") && text.contains("Issuer::kubernetes"),
        "{text}"
    );
}

#[tokio::test]
async fn a_missing_volume_is_named() {
    let pod = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    let missing = "/nowhere/to/be/found/token";
    let built = pod.build(pod.issuer().audience(AUDIENCE).api_token_file(missing));
    let text = built.unwrap_err().to_string();
    assert!(text.contains(missing), "{text}");
}

#[tokio::test]
async fn keycloak_50224_the_pod_s_token_follows_no_redirect() {
    fn elsewhere(_: &Path, _: &str) -> (String, Vec<u8>) {
        (
            "302 Found\r\nlocation: https://127.0.0.1:1/".to_owned(),
            Vec::new(),
        )
    }
    let pod = Pod::with(NEW, "gke-sa-api-audience.jwt", "127.0.0.1:0", elsewhere).await;
    let error = pod.guard().ready().await.unwrap_err();
    assert!(
        matches!(error.reason(), KeysError::Status { status, .. } if *status == 302),
        "{error:?}"
    );
}

#[tokio::test]
async fn keycloak_50224_an_api_server_of_another_ca_gets_no_token() {
    let pod = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    pod.kubelet.rotate("ca.crt", Ca::new().pem()).unwrap();
    let error = pod.guard().ready().await.unwrap_err();
    assert!(
        matches!(error.reason(), KeysError::Request { .. }),
        "{error:?}"
    );
    assert!(pod.api.asked().is_empty());
}

#[tokio::test]
async fn clusters_that_answer_discovery_to_all_and_keys_to_nobody_are_told_as_such() {
    fn no_keys(folder: &Path, path: &str) -> (String, Vec<u8>) {
        match path {
            "/openid/v1/jwks" => ("403 Forbidden".to_owned(), Vec::new()),
            _ => recorded(folder, path),
        }
    }
    let pod = Pod::with(NEW, "gke-sa-api-audience.jwt", "127.0.0.1:0", no_keys).await;
    let error = pod.guard().ready().await.unwrap_err();
    let text = error.reason().to_string();
    assert!(text.contains("/openid/v1/jwks returned 403"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_environment_of_a_pod_nothing_else_has_to_be_said() {
    let pod = Pod::new(NEW, "gke-sa-api-audience.jwt").await;
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "inside_a_pod", "--ignored", "--nocapture"])
        .env("KUBERNETES_SERVICE_HOST", pod.api.address.ip().to_string())
        .env(
            "KUBERNETES_SERVICE_PORT",
            pod.api.address.port().to_string(),
        )
        // A proxy that is not there: whoever asked it would fail.
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .env("VOLUME", pod.kubelet.path(""));
    let output = tokio::task::spawn_blocking(move || test.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
#[ignore = "is run by the one above"]
async fn inside_a_pod() {
    let Some(volume) = std::env::var_os("VOLUME").map(PathBuf::from) else {
        return;
    };
    let caller = token(NEW, "gke-sa-600s.jwt");
    let now = issued_at(&caller) + 1;
    let issuer = Issuer::in_cluster()
        .unwrap()
        .api_token_file(volume.join("token"))
        .api_ca_file(volume.join("ca.crt"));
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        .any_verified_caller()
        .clock(move || seconds(now))
        .build();
    assert!(guard.unwrap().verifier().verify(&caller).await.is_ok());
}

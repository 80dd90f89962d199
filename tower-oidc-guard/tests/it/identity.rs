//! The identity of a caller: typed claims, and the slots of a request's extensions that guards store it in.

use std::time::Duration;

use http::Request;
use serde::Deserialize;
use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::{Identities, Identity, OidcGuard, Platform, Policy};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, GoogleIssuer, SERVERLESS, cluster, guard_builder, send_request, token_spec,
    verified_identity,
};
use crate::support::{AUDIENCE, Body, bearer_request, body_text, request};

#[tokio::test]
async fn standard_claims_are_typed() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let caller =
        verified_identity(&guard, &token_spec(&cluster).audience("two").token_id("t1")).await;
    assert_eq!(
        (caller.issuer(), caller.platform()),
        (CLUSTER, Platform::Kubernetes)
    );
    assert_eq!((caller.subject(), caller.token_id()), (GKE_SA, Some("t1")));
    assert_eq!(caller.audiences(), [AUDIENCE, "two"]);
    let issued = caller.issued_at().unwrap();
    assert_eq!(caller.not_before(), Some(issued));
    assert_eq!(
        caller.expires_at().duration_since(issued).unwrap(),
        Duration::from_secs(3600)
    );
}

#[tokio::test]
async fn kubernetes_identity_has_namespace_account_pod_and_node_with_uids() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let caller = verified_identity(&guard, &token_spec(&cluster)).await;
    let account = caller.kubernetes().unwrap();
    assert_eq!(account.namespace(), "id-namespace");
    assert_eq!(account.service_account().name(), "gke-sa");
    assert_eq!(account.pod().unwrap().name(), "gke-sa");
    assert_eq!(account.node().unwrap().name(), "node");
    for object in [
        account.service_account(),
        account.pod().unwrap(),
        account.node().unwrap(),
    ] {
        assert_eq!(object.uid().unwrap().len(), 36);
    }
    assert!(caller.google().is_none());
}

#[tokio::test]
async fn kubernetes_claim_that_contradicts_the_subject_is_ignored() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let forged = token_spec(&cluster).claim("sub", "system:serviceaccount:kube-system:admin");
    assert!(
        verified_identity(&guard, &forged)
            .await
            .kubernetes()
            .is_none()
    );
}

#[tokio::test]
async fn google_identity_has_email_authorized_party_domain_and_machine() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let guard = google
        .guard_with_cluster(&cluster, Policy::any_verified_caller())
        .await;
    let machine = json!({ "compute_engine": {
        "project_id": "p", "project_number": 7, "zone": "z", "instance_id": "i", "instance_name": "n",
    }});
    let token = google
        .account("sa@p.iam.gserviceaccount.com")
        .claim("hd", "example.com");
    let caller = verified_identity(&guard, &token.claim("google", machine)).await;
    assert_eq!(caller.platform(), Platform::Google);
    let account = caller.google().unwrap();
    assert_eq!(account.email(), Some("sa@p.iam.gserviceaccount.com"));
    assert!(account.email_verified());
    assert_eq!(
        (account.authorized_party(), account.hosted_domain()),
        (Some("1234"), Some("example.com"))
    );
    let machine = account.compute_engine().unwrap();
    assert_eq!(
        (machine.project_id(), machine.project_number()),
        (Some("p"), Some(7))
    );
    assert_eq!(
        (
            machine.zone(),
            machine.instance_id(),
            machine.instance_name()
        ),
        (Some("z"), Some("i"), Some("n"))
    );
    assert!(caller.kubernetes().is_none());
}

#[tokio::test]
async fn google_email_without_email_verified_is_not_verified() {
    let (cluster, google) = (cluster(), GoogleIssuer::new());
    let guard = google
        .guard_with_cluster(&cluster, Policy::any_verified_caller())
        .await;
    let token = google
        .account("sa@p.iam.gserviceaccount.com")
        .without_claim("email_verified");
    assert!(
        !verified_identity(&guard, &token)
            .await
            .google()
            .unwrap()
            .email_verified()
    );
}

#[tokio::test]
async fn claims_deserialize_into_a_custom_type() {
    #[derive(Deserialize)]
    struct Mine {
        tenant: String,
    }
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let caller = verified_identity(&guard, &token_spec(&cluster).claim("tenant", "shop")).await;
    assert_eq!(caller.claims::<Mine>().unwrap().tenant, "shop");
    assert!(caller.claims::<Vec<u8>>().is_err());
}

#[tokio::test]
async fn debug_output_shows_the_caller_but_not_the_token() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let token = token_spec(&cluster).mint();
    let caller = guard.verifier().verify(&token).await.unwrap();
    let text = format!("{caller:?}");
    assert!(text.contains(GKE_SA), "{text}");
    assert!(token.split('.').all(|part| !text.contains(part)), "{text}");
}

/// Sends a request through two guards and returns the subjects that the service finds for the outer and the inner guard.
async fn both(
    gate: &OidcGuard,
    own: &OidcGuard,
    request: Request<Body>,
) -> (Option<String>, Option<String>) {
    let seen = service_fn(|request: Request<Body>| async move {
        let subject = |identity: &Identity| identity.subject().to_owned();
        let gate = request.extensions().get::<Identities>();
        let gate = gate
            .and_then(|identities| identities.get("gate"))
            .map(subject);
        let own = request.extensions().get::<Identity>().map(subject);
        Ok::<_, std::convert::Infallible>(http::Response::new(format!("{gate:?}|{own:?}")))
    });
    let service = gate.layer().layer(own.layer().layer(seen));
    let text = body_text(service.oneshot(request).await.unwrap()).await;
    let (gate, own) = text.split_once('|').unwrap();
    let read = |text: &str| {
        text.strip_prefix("Some(\"")
            .map(|text| text.trim_end_matches("\")").to_owned())
    };
    (read(gate), read(own))
}

#[tokio::test]
async fn guards_with_different_slots_keep_their_identities_apart() {
    let cluster = cluster();
    let gate = guard_builder(&cluster)
        .token_from([SERVERLESS])
        .identity_name("gate")
        .any_verified_caller();
    let gate = gate.build().unwrap();
    let own = guard_builder(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let caller = token_spec(&cluster).service_account("edge", "proxy").mint();
    let mut sent = bearer_request(&token_spec(&cluster).mint());
    sent.headers_mut()
        .insert(SERVERLESS, format!("Bearer {caller}").parse().unwrap());
    let proxy = Some("system:serviceaccount:edge:proxy".to_owned());
    assert_eq!(
        both(&gate, &own, sent).await,
        (proxy.clone(), Some(GKE_SA.to_owned()))
    );
    let mut only_gate = request(&[]);
    only_gate
        .headers_mut()
        .insert(SERVERLESS, format!("Bearer {caller}").parse().unwrap());
    assert_eq!(
        both(&gate, &own, only_gate).await,
        (proxy, None),
        "the inner optional guard has no identity of the outer guard"
    );
}

#[tokio::test]
async fn inner_optional_guard_in_the_same_slot_clears_the_outer_identity() {
    let cluster = cluster();
    let outer = guard_builder(&cluster)
        .token_from([SERVERLESS])
        .any_verified_caller()
        .build()
        .unwrap();
    let inner = guard_builder(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let mut sent = request(&[]);
    sent.headers_mut().insert(
        SERVERLESS,
        format!("Bearer {}", token_spec(&cluster).mint())
            .parse()
            .unwrap(),
    );
    assert_eq!(both(&outer, &inner, sent).await, (None, None));
}

#[tokio::test]
async fn optional_guard_removes_an_identity_inserted_by_an_earlier_layer() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let mut sent = request(&[]);
    sent.extensions_mut()
        .insert(verified_identity(&guard, &token_spec(&cluster)).await);
    assert_eq!(send_request(guard.layer(), sent).await.body(), b"nobody");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_extracts_a_required_or_optional_identity() {
    use axum::{Router, routing::get};
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let app = Router::new()
        .route(
            "/must",
            get(|caller: Identity| async move { caller.subject().to_owned() }),
        )
        .route(
            "/may",
            get(|caller: Option<Identity>| async move {
                caller.map_or("nobody".to_owned(), |caller| caller.subject().to_owned())
            }),
        )
        .route_layer(guard.layer());
    let token = token_spec(&cluster).mint();
    for (path, authorization, status, body) in [
        ("/must", Some(&token), 200, GKE_SA),
        ("/may", Some(&token), 200, GKE_SA),
        ("/may", None, 200, "nobody"),
    ] {
        let mut sent = Request::builder().uri(path);
        if let Some(token) = authorization {
            sent = sent.header("authorization", format!("Bearer {token}"));
        }
        let sent = sent.body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(sent).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(body_text(response).await, body, "{path}");
    }
    let without_token = Request::builder().uri("/must");
    let without_token = without_token.body(axum::body::Body::empty()).unwrap();
    let response = app.oneshot(without_token).await.unwrap();
    assert_eq!(response.status(), 500);
    let has_reason = body_text(response).await.contains("Option<Identity>");
    assert_eq!(has_reason, cfg!(debug_assertions));
}

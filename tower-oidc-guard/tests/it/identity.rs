//! What a verified token says of its caller.

use std::time::Duration;

use crate::support::stage::{
    CLUSTER, GKE_SA, Google, SERVERLESS, answer, cluster, identity, settings, spec,
};
use crate::support::{AUDIENCE, Body, bearer, request};
use http::Request;
use serde::Deserialize;
use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::{Identities, Identity, OidcGuard, Platform, Policy};

#[tokio::test]
async fn the_standard_claims_are_typed() {
    let cluster = cluster();
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    let caller = identity(&guard, &spec(&cluster).audience("two").token_id("t1")).await;
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
async fn kubernetes_names_namespace_account_pod_and_node_with_their_uids() {
    let cluster = cluster();
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    let caller = identity(&guard, &spec(&cluster)).await;
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
async fn a_claim_of_kubernetes_that_differs_from_the_subject_says_nothing() {
    let cluster = cluster();
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    let forged = spec(&cluster).claim("sub", "system:serviceaccount:kube-system:admin");
    assert!(identity(&guard, &forged).await.kubernetes().is_none());
}

#[tokio::test]
async fn google_names_email_party_domain_and_machine() {
    let (cluster, google) = (cluster(), Google::new());
    let guard = google.beside(&cluster, Policy::any_verified_caller()).await;
    let machine = json!({ "compute_engine": {
        "project_id": "p", "project_number": 7, "zone": "z", "instance_id": "i", "instance_name": "n",
    }});
    let token = google
        .account("sa@p.iam.gserviceaccount.com")
        .claim("hd", "example.com");
    let caller = identity(&guard, &token.claim("google", machine)).await;
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
async fn a_google_token_without_email_verified_has_none_that_is() {
    let (cluster, google) = (cluster(), Google::new());
    let guard = google.beside(&cluster, Policy::any_verified_caller()).await;
    let token = google
        .account("sa@p.iam.gserviceaccount.com")
        .without_claim("email_verified");
    assert!(
        !identity(&guard, &token)
            .await
            .google()
            .unwrap()
            .email_verified()
    );
}

#[tokio::test]
async fn claims_of_one_s_own_are_read_into_one_s_own_type() {
    #[derive(Deserialize)]
    struct Mine {
        tenant: String,
    }
    let cluster = cluster();
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    let caller = identity(&guard, &spec(&cluster).claim("tenant", "shop")).await;
    assert_eq!(caller.claims::<Mine>().unwrap().tenant, "shop");
    assert!(caller.claims::<Vec<u8>>().is_err());
}

#[tokio::test]
async fn debug_shows_the_caller_and_no_token() {
    let cluster = cluster();
    let guard = settings(&cluster).any_verified_caller().build().unwrap();
    let token = spec(&cluster).mint();
    let caller = guard.verifier().verify(&token).await.unwrap();
    let text = format!("{caller:?}");
    assert!(text.contains(GKE_SA), "{text}");
    assert!(token.split('.').all(|part| !text.contains(part)), "{text}");
}

/// The subjects that a service behind two guards finds, the gate's and its own.
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
    let text = crate::support::text(service.oneshot(request).await.unwrap()).await;
    let (gate, own) = text.split_once('|').unwrap();
    let read = |text: &str| {
        text.strip_prefix("Some(\"")
            .map(|text| text.trim_end_matches("\")").to_owned())
    };
    (read(gate), read(own))
}

#[tokio::test]
async fn two_guards_on_two_headers_keep_two_slots() {
    let cluster = cluster();
    let gate = settings(&cluster)
        .token_from([SERVERLESS])
        .identity_name("gate")
        .any_verified_caller();
    let gate = gate.build().unwrap();
    let own = settings(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let caller = spec(&cluster).service_account("edge", "proxy").mint();
    let mut sent = bearer(&spec(&cluster).mint());
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
        "an inner optional guard shows no outer caller"
    );
}

#[tokio::test]
async fn an_inner_optional_guard_in_the_same_slot_clears_the_outer_one_s_caller() {
    let cluster = cluster();
    let outer = settings(&cluster)
        .token_from([SERVERLESS])
        .any_verified_caller()
        .build()
        .unwrap();
    let inner = settings(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let mut sent = request(&[]);
    sent.headers_mut().insert(
        SERVERLESS,
        format!("Bearer {}", spec(&cluster).mint()).parse().unwrap(),
    );
    assert_eq!(both(&outer, &inner, sent).await, (None, None));
}

#[tokio::test]
async fn an_identity_from_an_earlier_layer_does_not_pass_an_optional_guard() {
    let cluster = cluster();
    let guard = settings(&cluster)
        .allow_missing_token()
        .any_verified_caller()
        .build()
        .unwrap();
    let mut sent = request(&[]);
    sent.extensions_mut()
        .insert(identity(&guard, &spec(&cluster)).await);
    assert_eq!(answer(guard.layer(), sent).await.body(), b"nobody");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_extracts_the_identity_or_an_optional_one() {
    use axum::{Router, routing::get};
    let cluster = cluster();
    let guard = settings(&cluster)
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
    let token = spec(&cluster).mint();
    for (path, authorization, status, body) in [
        ("/must", Some(&token), 200, GKE_SA),
        ("/may", Some(&token), 200, GKE_SA),
        ("/may", None, 200, "nobody"),
        ("/must", None, 500, ""),
    ] {
        let mut sent = Request::builder().uri(path);
        if let Some(token) = authorization {
            sent = sent.header("authorization", format!("Bearer {token}"));
        }
        let sent = sent.body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(sent).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(crate::support::text(response).await, body, "{path}");
    }
}

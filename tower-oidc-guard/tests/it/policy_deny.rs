//! Deny lists: they reject the denied callers, and callers whose token leaves open whether they are denied.

use serde_json::{Value, json};
use tower_oidc_guard::testing::{MemoryIssuer, TokenSpec};
use tower_oidc_guard::{OidcGuard, Policy};

use crate::support::in_memory::{
    CLUSTER, GKE_SA, GoogleIssuer, cluster, guard_builder, send_request, status_for_policy,
    token_spec, token_status, verified_identity,
};
use crate::support::{AUDIENCE, bearer_request, request};

const EVIL: &str = "evil@p.iam.gserviceaccount.com";
const GOOGLE: &str = "https://accounts.google.com";

/// A guard that trusts a cluster and Google.
struct Setup {
    cluster: MemoryIssuer,
    google: GoogleIssuer,
    guard: OidcGuard,
}

impl Setup {
    async fn new() -> Self {
        let (cluster, google) = (cluster(), GoogleIssuer::new());
        let guard = google
            .guard_with_cluster(&cluster, Policy::any_verified_caller())
            .await;
        Self {
            cluster,
            google,
            guard,
        }
    }

    async fn status(&self, policy: &Policy, token: &TokenSpec) -> u16 {
        let layer = self.guard.layer_with(policy.clone()).unwrap();
        token_status(layer, &token.mint()).await
    }

    async fn explain(&self, policy: &Policy, token: &TokenSpec) -> String {
        let caller = verified_identity(&self.guard, token).await;
        policy.explain(&caller).to_string()
    }
}

/// Returns policies that allow other Google accounts and deny [`EVIL`] by its email address.
fn email_policies() -> Vec<Policy> {
    let any = Policy::any_verified_caller;
    let evil = [format!("serviceAccount:{EVIL}")];
    vec![
        any().deny(&evil),
        any().deny(["user:EVIL@P.iam.gserviceaccount.com", GKE_OTHER]),
        Policy::members([format!("principal:{GOOGLE}#1234")]).deny(&evil),
        any().require_claim("azp", "1234").deny(&evil),
        any().require(|_| true).deny(&evil),
        any().audience(AUDIENCE).deny(&evil),
        Policy::members_of(GOOGLE, ["allAuthenticatedUsers"]).deny(&evil),
        Policy::members(["allUsers"]).deny(&evil),
        Policy::any_of([any()]).deny(&evil),
        Policy::any_of([any().deny(&evil), any()]),
        Policy::any_of([any(), any().deny(&evil)]),
        Policy::all_of([any(), any().deny(&evil)]),
        Policy::any_of([
            Policy::all_of([Policy::members([""; 0]).deny(&evil)]),
            any(),
        ]),
        Policy::any_of([
            any(),
            Policy::members([GKE_SA]).require_claim("x", 1).deny(&evil),
        ]),
    ]
}

const GKE_OTHER: &str = "system:serviceaccount:id-namespace:other";

#[tokio::test]
async fn account_denied_by_email_is_rejected_even_if_its_token_omits_or_mistypes_the_claim() {
    let setup = Setup::new().await;
    let evil = || setup.google.account(EVIL);
    let mut tokens = vec![
        evil(),
        setup.google.account("Evil@P.IAM.gserviceaccount.com"),
        evil().without_claim("email"),
        evil().without_claim("email_verified"),
        evil()
            .without_claim("email")
            .without_claim("email_verified"),
    ];
    for value in [
        json!(false),
        json!("true"),
        json!(1),
        json!(null),
        json!([true]),
    ] {
        tokens.push(evil().claim("email_verified", value));
    }
    for value in [
        json!(null),
        json!([EVIL]),
        json!({ "address": EVIL }),
        json!(7),
        json!(true),
        json!(""),
        json!(" "),
        json!(format!("{EVIL} ")),
        json!(format!("\u{200b}{EVIL}")),
        json!(format!("Evil <{EVIL}>")),
        json!("evil"),
    ] {
        tokens.push(evil().claim("email", value));
    }
    // An invalid other claim.
    for (name, value) in [
        ("hd", json!(["x"])),
        ("hd", json!(5)),
        ("azp", json!({})),
        ("google", json!("x")),
        ("google", json!({ "compute_engine": 5 })),
        (
            "google",
            json!({ "compute_engine": { "project_number": "x" } }),
        ),
    ] {
        tokens.push(evil().claim(name, value));
    }
    for policy in email_policies() {
        for token in &tokens {
            assert_eq!(
                setup.status(&policy, token).await,
                403,
                "{policy:?} {token:?}"
            );
            let why = setup.explain(&policy, token).await;
            assert!(why.starts_with("rejected: "), "{why}");
        }
    }
}

#[tokio::test]
async fn accounts_with_other_verified_emails_and_callers_of_other_issuers_are_not_denied() {
    let setup = Setup::new().await;
    let good = setup.google.account("good@p.iam.gserviceaccount.com");
    let of_cluster = token_spec(&setup.cluster);
    let any = Policy::any_verified_caller;
    let evil = format!("serviceAccount:{EVIL}");
    for policy in email_policies() {
        assert_eq!(setup.status(&policy, &good).await, 200, "{policy:?}");
    }
    for policy in [
        any().deny([&evil]),
        Policy::members([GKE_SA]).deny([&evil]),
        Policy::any_of([any(), any().deny([&evil])]),
    ] {
        assert_eq!(setup.status(&policy, &of_cluster).await, 200, "{policy:?}");
        // A cluster can sign any claim, but only Google vouches for email addresses.
        let posing = of_cluster
            .clone()
            .claim("email", EVIL)
            .claim("email_verified", true);
        assert_eq!(setup.status(&policy, &posing).await, 200, "{policy:?}");
    }
    // A deny list without email addresses does not require one.
    let without_email = good.without_claim("email");
    for policy in [
        any(),
        any().deny([GKE_SA]),
        any().deny(["system:serviceaccounts"]),
        any().deny([format!("principal:{GOOGLE}#9")]),
    ] {
        assert_eq!(
            setup.status(&policy, &without_email).await,
            200,
            "{policy:?}"
        );
    }
}

#[tokio::test]
async fn explanation_names_the_claim_that_the_deny_list_requires() {
    let setup = Setup::new().await;
    let policy = Policy::any_verified_caller().deny([format!("user:{EVIL}")]);
    let evil = || setup.google.account(EVIL);
    for (token, said) in [
        (evil(), "account evil@p.iam.gserviceaccount.com is denied"),
        (evil().without_claim("email"), "no claim `email`"),
        (evil().claim("email", json!([EVIL])), "no claim `email`"),
        (evil().claim("email", "evil"), "not an email address"),
        (
            evil().claim("email_verified", false),
            "not marked as verified",
        ),
    ] {
        let why = setup.explain(&policy, &token).await;
        assert!(why.contains(said), "{why}");
    }
}

#[tokio::test]
async fn malformed_kubernetes_subject_is_denied_by_any_denied_namespace_or_account() {
    let setup = Setup::new().await;
    let any = Policy::any_verified_caller;
    let of_subject = |subject: &str| token_spec(&setup.cluster).claim("sub", subject);
    let malformed = [
        "system:node:n1",
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:",
        "system:serviceaccount:shop:web:x",
        "system:serviceaccount:Shop:web",
        "system:serviceaccount: shop:web",
        "System:serviceaccount:shop:web",
        "web",
    ];
    let denied = |members: &[&str]| any().deny(members);
    for subject in malformed {
        for policy in [
            denied(&["system:serviceaccounts:shop"]),
            denied(&["system:serviceaccount:shop:web"]),
            denied(&["system:serviceaccounts"]),
            denied(&["system:authenticated"]),
            Policy::any_of([any(), denied(&["system:serviceaccounts:shop"])]),
        ] {
            assert_eq!(
                setup.status(&policy, &of_subject(subject)).await,
                403,
                "{subject}"
            );
        }
        let principal = format!("principal:{CLUSTER}#other");
        for policy in [
            any(),
            denied(&[&principal]),
            denied(&["user:a@example.com"]),
        ] {
            assert_eq!(
                setup.status(&policy, &of_subject(subject)).await,
                200,
                "{subject}"
            );
        }
    }
    for (subject, expected) in [
        ("system:serviceaccount:shop:web", 403),
        ("system:serviceaccount:other:web", 200),
        ("system:serviceaccount:shop-2:web", 200),
    ] {
        let policy = denied(&["system:serviceaccounts:shop"]);
        assert_eq!(
            setup.status(&policy, &of_subject(subject)).await,
            expected,
            "{subject}"
        );
    }
}

#[tokio::test]
async fn deny_takes_precedence_over_every_other_part_of_a_policy() {
    let (any, us) = (Policy::any_verified_caller, || Policy::members([GKE_SA]));
    let nobody = || Policy::members([""; 0]);
    let denying = || us().deny([GKE_SA]);
    for policy in [
        Policy::any_of([denying(), us()]),
        Policy::any_of([us(), denying()]),
        Policy::any_of([any(), nobody().deny([GKE_SA])]),
        Policy::any_of([us(), Policy::any_of([nobody(), denying()])]),
        Policy::any_of([us(), Policy::all_of([nobody(), denying()])]),
        Policy::any_of([us(), Policy::all_of([denying(), nobody()])]),
        Policy::any_of([
            us(),
            any().require_claim("x", 1).deny(["system:serviceaccounts"]),
        ]),
        Policy::any_of([
            us(),
            any().require(|_| false).deny(["system:authenticated"]),
        ]),
        Policy::any_of([us(), any().deny(["allAuthenticatedUsers"])]),
        Policy::any_of([us(), any().deny(["allUsers"])]),
        Policy::any_of([us(), any()]).deny([GKE_SA]),
        Policy::any_of([us(), any()])
            .require(|_| true)
            .deny([GKE_SA]),
        Policy::any_of([us(), Policy::any_of([us()]).deny([GKE_SA])]),
        Policy::all_of([us(), Policy::any_of([denying(), us()])]),
        us().deny([GKE_SA]).deny(["system:serviceaccounts:other"]),
    ] {
        assert_eq!(status_for_policy(policy.clone()).await, 403, "{policy:?}");
    }
    let other = || us().deny(["system:serviceaccounts:other"]);
    for policy in [
        Policy::any_of([other(), nobody()]),
        Policy::all_of([other(), us().deny([GKE_OTHER])]),
    ] {
        assert_eq!(status_for_policy(policy.clone()).await, 200, "{policy:?}");
    }
}

#[tokio::test]
async fn denying_a_member_also_denies_requests_without_a_token() {
    let cluster = cluster();
    let guard = guard_builder(&cluster)
        .any_verified_caller()
        .build()
        .unwrap();
    let everyone = || Policy::members(["allUsers"]);
    for (policy, anonymous, known) in [
        (everyone(), 200, 200),
        (everyone().deny([GKE_SA]), 401, 403),
        (everyone().deny([GKE_OTHER]), 401, 200),
        (
            Policy::any_of([everyone(), Policy::members([GKE_SA]).deny([GKE_OTHER])]),
            401,
            200,
        ),
        (Policy::any_of([everyone()]).deny([GKE_OTHER]), 401, 200),
        (everyone().deny(["allUsers"]), 401, 403),
    ] {
        let layer = guard.layer_with(policy.clone()).unwrap();
        let response = send_request(layer.clone(), request(&[])).await;
        assert_eq!(response.status(), anonymous, "{policy:?}");
        let response = send_request(layer, bearer_request(&token_spec(&cluster).mint())).await;
        assert_eq!(response.status(), known, "{policy:?}");
    }
}

#[tokio::test]
async fn denied_members_match_every_name_of_their_issuer() {
    let setup = Setup::new().await;
    let any = Policy::any_verified_caller;
    let caller = setup.google.account("good@example.com");
    for name in [GOOGLE, "accounts.google.com"] {
        for iss in [GOOGLE, "accounts.google.com"] {
            let caller = caller.clone().claim("iss", iss);
            let principal = format!("principal:{name}#1234");
            let denying = any().deny([&principal]);
            assert_eq!(setup.status(&denying, &caller).await, 403, "{name} {iss}");
            let allowing = Policy::members_of(name, [&principal]);
            assert_eq!(setup.status(&allowing, &caller).await, 200, "{name} {iss}");
        }
    }
}

#[tokio::test]
async fn google_claim_of_wrong_type_does_not_discard_the_other_google_claims() {
    let setup = Setup::new().await;
    let machine = |changed: &str, value: Value| {
        let mut machine = json!({
            "project_id": "p", "project_number": 7, "zone": "z", "instance_id": "i", "instance_name": "n",
        });
        machine[changed] = value;
        json!({ "compute_engine": machine })
    };
    let read = async |token: TokenSpec| {
        let caller = verified_identity(&setup.guard, &token).await;
        caller.google().unwrap().clone()
    };
    let whole = || {
        let token = setup
            .google
            .account("a@example.com")
            .claim("hd", "example.com");
        token.claim("google", machine("zone", json!("z")))
    };
    for name in ["email", "email_verified", "azp", "hd", "google"] {
        for value in [json!(["x"]), json!({ "a": 1 }), json!(5), json!(null)] {
            let account = read(whole().claim(name, value.clone())).await;
            let is_present = |other: &str| name != other;
            assert_eq!(
                account.email().is_some(),
                is_present("email"),
                "{name} {value}"
            );
            assert_eq!(
                account.email_verified(),
                is_present("email_verified"),
                "{name} {value}"
            );
            assert_eq!(
                account.authorized_party().is_some(),
                is_present("azp"),
                "{name} {value}"
            );
            assert_eq!(
                account.hosted_domain().is_some(),
                is_present("hd"),
                "{name} {value}"
            );
            assert_eq!(
                account.compute_engine().is_some(),
                is_present("google"),
                "{name} {value}"
            );
        }
    }
    for name in [
        "project_id",
        "project_number",
        "zone",
        "instance_id",
        "instance_name",
    ] {
        let account = read(whole().claim("google", machine(name, json!([])))).await;
        let machine = account.compute_engine().unwrap();
        let is_present = |other: &str| name != other;
        assert_eq!(
            machine.project_id().is_some(),
            is_present("project_id"),
            "{name}"
        );
        assert_eq!(
            machine.project_number().is_some(),
            is_present("project_number"),
            "{name}"
        );
        assert_eq!(machine.zone().is_some(), is_present("zone"), "{name}");
        assert_eq!(
            machine.instance_id().is_some(),
            is_present("instance_id"),
            "{name}"
        );
        assert_eq!(
            machine.instance_name().is_some(),
            is_present("instance_name"),
            "{name}"
        );
    }
}

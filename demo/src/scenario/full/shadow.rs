//! A stricter policy is tried as a shadow policy, announces the requests that it would reject, and is promoted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::{AuditDecision, AuditEvent, OidcGuard, PolicyFile};

use super::case;
use super::fixture::Fixture;
use crate::Error;
use crate::client::{Client, Endpoint};
use crate::output::Component;

const POLICY_FILE: &str = "policy.yaml";
const SHADOW_FILE: &str = "shadow.yaml";
const POLICY: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\n";
const STRICTER_POLICY: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\ndeny: [\"system:serviceaccount:id-namespace:legacy\"]\n";
/// The service accounts that send requests.
const ACCOUNTS: [&str; 2] = ["gke-sa", "legacy"];
/// The number of requests that each of them sends to each policy.
const REQUESTS: usize = 3;

/// The content of the server's audit: the number of requests, and of those that were rejected or announced, by subject.
#[derive(Debug, Default)]
struct Audited {
    requests: usize,
    rejected: BTreeMap<String, usize>,
    announced: BTreeMap<String, usize>,
}

impl Audited {
    fn record(&mut self, event: &AuditEvent<'_>) {
        self.requests += 1;
        let is_rejected = |decision| decision == AuditDecision::Rejected;
        let subject = event.subject.unwrap_or("a caller without a token");
        let add = |counts: &mut BTreeMap<String, usize>| {
            *counts.entry(subject.to_owned()).or_default() += 1;
        };
        if is_rejected(event.decision) {
            add(&mut self.rejected);
        }
        let shadow = event.shadow_decision.map(is_rejected);
        if shadow.is_some_and(|shadow| shadow != is_rejected(event.decision)) {
            add(&mut self.announced);
        }
    }
}

/// The server compares its policy with a stricter one, announces the requests that this would reject, and rejects exactly these
/// once the stricter policy has replaced the other.
pub(super) async fn promotion(fixture: &Fixture<'_>) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::io("cannot create a temporary directory"))?;
    let kubelet = Kubelet::new(folder.path().join("volume"))
        .map_err(Error::io("cannot create the directory of the volume"))?;
    let write = |policy: &str| {
        let mut files = vec![
            (POLICY_FILE, policy.to_owned()),
            (SHADOW_FILE, STRICTER_POLICY.to_owned()),
        ];
        files.extend(ACCOUNTS.map(|account| (account, fixture.service_account_token(account))));
        let written = kubelet.write(files);
        written.map_err(Error::io("cannot write the volume"))
    };
    write(POLICY)?;
    let open = async |name| {
        let file = PolicyFile::open(kubelet.path(name)).await;
        file.map_err(Error::file("the scenario's policy"))
    };
    let (policy, shadow) = (open(POLICY_FILE).await?, open(SHADOW_FILE).await?);
    let audited = Arc::new(Mutex::new(Audited::default()));
    let received = audited.clone();
    let take = || std::mem::take(&mut *audited.lock().unwrap_or_else(PoisonError::into_inner));
    let guard = OidcGuard::builder()
        .issuer(fixture.cluster_issuer())
        .policy(policy.policy())
        .shadow_policy(shadow.policy())
        .on_decision(move |event| {
            let mut audited = received.lock().unwrap_or_else(PoisonError::into_inner);
            audited.record(event);
        })
        .build()?;
    let url = fixture.serve(&guard, None)?;
    let mut clients = Vec::new();
    for account in ACCOUNTS {
        let token = ProjectedToken::open(kubelet.path(account)).await?;
        clients.push(fixture.client_with_token(&url, token)?);
    }
    let text = "compares its policy with a stricter one, which it does not enforce";
    fixture.print(Component::Server, "shadow_policy", text);
    let cases = [
        ("shadow_member", "shadow policy: allowed by both", 200),
        ("shadow_announced", "shadow policy: denied by it alone", 200),
    ];
    send(fixture, &clients, cases).await;
    let before = take();
    let announced: usize = before.announced.values().sum();
    let callers: Vec<_> = before.announced.keys().map(String::as_str).collect();
    let (requests, callers) = (before.requests, callers.join(", "));
    let text = format!(
        "announced that {announced} of {requests} requests would be rejected, all from {callers}"
    );
    fixture.print(Component::Server, "shadow_announced", &text);

    let changed = policy.changed();
    write(STRICTER_POLICY)?;
    changed.await;
    let text = "enforces what was the shadow policy";
    fixture.print(Component::Server, "shadow_promoted", text);
    let cases = [
        ("promoted_member", "promoted policy: allowed by both", 200),
        (
            "promoted_announced",
            "promoted policy: announced caller",
            403,
        ),
    ];
    send(fixture, &clients, cases).await;
    let after = take();
    let rejected: usize = after.rejected.values().sum();
    let text = format!(
        "rejected {rejected} of {} requests: those that were announced",
        after.requests
    );
    let is_announced =
        after.rejected == before.announced && rejected > 0 && after.announced.is_empty();
    if is_announced {
        fixture.print(Component::Server, "shadow_confirmed", &text);
    } else {
        let case = case(
            "shadow_confirmed",
            Endpoint::Private,
            "shadow policy promoted",
        );
        let text = format!(
            "announced {:?}, and rejected {:?}",
            before.announced, after.rejected
        );
        fixture.record_unexpected(case, &text);
    }
    Ok(())
}

/// Sends requests from each client, with the name, the description and the expected status of each.
async fn send(
    fixture: &Fixture<'_>,
    clients: &[Client],
    cases: [(&'static str, &'static str, u16); 2],
) {
    for _ in 0..REQUESTS {
        for (client, (name, description, status)) in clients.iter().zip(cases) {
            let request = case(name, Endpoint::Private, description);
            fixture.expect_status(client, request, status).await;
        }
    }
}

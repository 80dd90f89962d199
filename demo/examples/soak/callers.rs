//! Callers with good tokens, bad ones and none, at a fixed rate. Each request has one expected answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use demo::error_chain;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::environment::{CHANGING_ACCOUNT, DENIED_ACCOUNT, Environment, Server};
use crate::pace::Pace;
use crate::tokens::NAMESPACE;

/// The largest number of requests in flight. A token of an unknown key is answered after seconds.
const MAX_IN_FLIGHT: usize = 512;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    KnownToken,
    LongLivedToken,
    NewToken,
    NoToken,
    Expired,
    OtherAudience,
    Garbage,
    TwoTokens,
    Denied,
    ChangingPolicy,
    BadSignature,
    UnknownKey,
    WithdrawnKey,
    Readiness,
}

/// The requests in the order in which they are sent, again and again. Three in ten have bad tokens or none.
const SEQUENCE: [Kind; 40] = {
    use Kind::*;
    [
        KnownToken,
        NewToken,
        Expired,
        KnownToken,
        Open,
        ChangingPolicy,
        KnownToken,
        NewToken,
        OtherAudience,
        KnownToken,
        NewToken,
        Garbage,
        KnownToken,
        ChangingPolicy,
        LongLivedToken,
        NewToken,
        BadSignature,
        KnownToken,
        Denied,
        KnownToken,
        NewToken,
        NoToken,
        KnownToken,
        ChangingPolicy,
        Readiness,
        NewToken,
        Expired,
        KnownToken,
        Open,
        KnownToken,
        NewToken,
        TwoTokens,
        KnownToken,
        ChangingPolicy,
        WithdrawnKey,
        NewToken,
        OtherAudience,
        KnownToken,
        UnknownKey,
        Garbage,
    ]
};

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open path",
            Self::KnownToken => "known token",
            Self::LongLivedToken => "long-lived token",
            Self::NewToken => "new token",
            Self::NoToken => "no token",
            Self::Expired => "expired token",
            Self::OtherAudience => "token for another audience",
            Self::Garbage => "garbage as token",
            Self::TwoTokens => "two tokens",
            Self::Denied => "denied caller",
            Self::ChangingPolicy => "caller that the policy changes about",
            Self::BadSignature => "token with a bad signature",
            Self::UnknownKey => "token of an unknown key",
            Self::WithdrawnKey => "token of a withdrawn key",
            Self::Readiness => "readiness",
        }
    }
}

/// Sends requests at a rate per second until dropped.
pub(crate) async fn run(environment: Arc<Environment>, rate: f64) {
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut pace = Pace::new(rate);
    let mut requests = JoinSet::new();
    for number in 0.. {
        pace.next().await;
        while requests.try_join_next().is_some() {}
        // Not the same kind for a server each time.
        let server = (number + number / SEQUENCE.len()) % 2;
        let kind = SEQUENCE[number % SEQUENCE.len()];
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            let text = format!("{MAX_IN_FLIGHT} requests have no answer");
            environment.record.failure("requests in flight", &text);
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let environment = environment.clone();
        requests.spawn(async move {
            send(&environment, server, kind, number).await;
            drop(slot);
        });
    }
}

/// Sends one request, and records whether the answer is the expected one.
async fn send(environment: &Environment, server: usize, kind: Kind, number: usize) {
    let server = &environment.servers[server];
    let tokens = &environment.tokens;
    let client = match number % 7 {
        // Not HTTP/2 without TLS.
        _ if kind == Kind::Readiness => &server.keep_alive,
        0 | 3 => &server.http2,
        5 => &server.fresh,
        _ => &server.keep_alive,
    };
    // A withdrawn key is an unknown one to the server.
    let fetches_keys = matches!(
        kind,
        Kind::BadSignature | Kind::UnknownKey | Kind::WithdrawnKey
    );
    if fetches_keys
        && !environment
            .sends_tokens_of_unknown_keys
            .load(Ordering::SeqCst)
    {
        return;
    }
    let before = server.expectation();
    let token = match kind {
        Kind::Open | Kind::NoToken | Kind::Readiness => None,
        Kind::KnownToken | Kind::TwoTokens => Some(tokens.known()),
        Kind::LongLivedToken => Some(tokens.long_lived()),
        Kind::NewToken => Some(tokens.valid("gke-sa", "caller")),
        Kind::Expired => Some(tokens.expired()),
        Kind::OtherAudience => Some(tokens.other_audience()),
        Kind::Garbage if number.is_multiple_of(2) => Some("not.a.token".to_owned()),
        Kind::Garbage => Some("x".repeat(2000)),
        Kind::Denied => Some(tokens.valid(DENIED_ACCOUNT, "caller")),
        Kind::ChangingPolicy => Some(tokens.valid(CHANGING_ACCOUNT, "caller")),
        Kind::BadSignature => Some(tokens.bad_signature()),
        Kind::UnknownKey => Some(tokens.unknown_key()),
        Kind::WithdrawnKey => match tokens.withdrawn() {
            Some(token) => Some(token),
            None => return,
        },
    };
    let url = match kind {
        Kind::Open => format!("{}/", server.url),
        Kind::Readiness => format!("{}/readyz", server.admin),
        _ => format!("{}/private", server.url),
    };
    let account = match kind {
        Kind::ChangingPolicy => CHANGING_ACCOUNT,
        _ => "gke-sa",
    };
    let mut request = client.get(url);
    if let Some(token) = &token {
        request = request.bearer_auth(token);
    }
    if kind == Kind::TwoTokens {
        request = request.header("authorization", "Bearer another");
    }
    let began = Instant::now();
    let answer = answer(request, account).await;
    let elapsed = began.elapsed();
    let after = server.expectation();
    let expected = match kind {
        Kind::Open | Kind::KnownToken | Kind::LongLivedToken | Kind::NewToken | Kind::Readiness => {
            200
        }
        Kind::TwoTokens => 400,
        Kind::Denied => 403,
        Kind::ChangingPolicy if before == after && before.is_settled => before.admits.status(),
        // The policy has changed meanwhile, so that either decision is right.
        Kind::ChangingPolicy => match answer {
            Ok(status @ (200 | 403)) => status,
            _ => before.admits.status(),
        },
        _ => 401,
    };
    let result = match answer {
        Ok(status) if status == expected => Ok(()),
        Ok(status) if environment.record.has_waited_for_new_key(status, elapsed) => Ok(()),
        Ok(status) => Err(format!(
            "{status} instead of {expected} from {}",
            server.name
        )),
        Err(error) => Err(format!("{error}, from {}", server.name)),
    };
    environment.record.request(kind.name(), result);
}

/// Sends a request, and returns the status. A response with the status 200 of the guarded path must name the account, and one with
/// 401 must have a challenge.
async fn answer(request: reqwest::RequestBuilder, account: &str) -> Result<u16, String> {
    let response = request.send().await.map_err(|error| error_chain(&error))?;
    let status = response.status().as_u16();
    let has_challenge = response.headers().contains_key("www-authenticate");
    let is_private = response.url().path() == "/private";
    let body = response.text().await.map_err(|error| error_chain(&error))?;
    if status == 401 && !has_challenge {
        return Err("401 without a challenge".to_owned());
    }
    if status == 200 && is_private {
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let subject = format!("system:serviceaccount:{NAMESPACE}:{account}");
        if body["caller"]["subject"] != subject {
            return Err(format!("200 with another caller than {account}"));
        }
    }
    Ok(status)
}

/// Requests the guarded path once with a token, and returns the status.
pub(crate) async fn status(server: &Server, token: &str, account: &str) -> Result<u16, String> {
    let url = format!("{}/private", server.url);
    answer(server.keep_alive.get(url).bearer_auth(token), account).await
}

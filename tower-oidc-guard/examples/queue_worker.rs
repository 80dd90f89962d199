//! A worker that processes messages with tokens, for a queue in which the producer of each message puts its token.
//!
//! The guard verifies the token and evaluates its policy as for a request. A message that cannot be decided on, because the
//! issuer's keys are not available, stays in the queue. Run it with
//! `cargo run -p tower-oidc-guard --example queue_worker --features testing`.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use http::StatusCode;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, Rejection};

const AUDIENCE: &str = "https://queue.example";

/// A message, as it is in the queue.
struct Message {
    text: &'static str,
    token: String,
}

/// The result of processing a message.
#[derive(Debug, PartialEq)]
enum Outcome {
    Processed {
        sender: String,
    },
    /// The message is in the queue again, and is tried after this time.
    Kept {
        retry_after: Duration,
    },
    /// The message is lost. A real worker moves it to a dead-letter queue.
    Dropped {
        reason: &'static str,
    },
}

/// Takes one message from the queue. Returns `None` if the queue is empty.
async fn process_next(guard: &OidcGuard, queue: &mut VecDeque<Message>) -> Option<Outcome> {
    let message = queue.pop_front()?;
    // Verifies the token now, so it has to be valid until the message is processed: use lifetimes that exceed the time that
    // messages wait in the queue.
    let outcome = match guard.authorize(&message.token).await {
        Ok(caller) => {
            let sender = caller.subject().to_owned();
            Outcome::Processed { sender }
        }
        // The issuer's keys are not available. The same token may be accepted later.
        Err(Rejection::KeysUnavailable { retry_after }) => {
            queue.push_front(message);
            return Some(Outcome::Kept { retry_after });
        }
        // The token is invalid, or the policy does not allow its caller.
        Err(rejection) => Outcome::Dropped {
            reason: rejection.reason(),
        },
    };
    println!("{:?}: {outcome:?}", message.text);
    Some(outcome)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = MemoryIssuer::new("https://cluster.example")?;
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience(AUDIENCE))
        .http_client(issuer.client())
        .policy(Policy::members(["system:serviceaccount:shop:web"]))
        .build()?;

    let token = |name: &str| {
        let spec = issuer.token().audience(AUDIENCE);
        spec.service_account("shop", name)
    };
    let message = |text, token: String| Message { text, token };
    let mut queue = VecDeque::from([
        message("an order", token("web").mint()),
        message("not by the shop", token("blog").mint()),
        message("too late", token("web").claim("exp", 1).mint()),
        message(
            "for another queue",
            token("web").claim("aud", "https://other.example").mint(),
        ),
    ]);

    // The issuer cannot be reached yet, so the first message stays in the queue.
    issuer.fail(StatusCode::SERVICE_UNAVAILABLE);
    let Some(Outcome::Kept { retry_after }) = process_next(&guard, &mut queue).await else {
        return Err("the message was not kept".into());
    };
    println!("keys are not available; trying again in {retry_after:?}");
    assert_eq!(queue.len(), 4);

    issuer.recover();
    let mut outcomes = Vec::new();
    while let Some(outcome) = process_next(&guard, &mut queue).await {
        match outcome {
            Outcome::Kept { retry_after } => tokio::time::sleep(retry_after).await,
            outcome => outcomes.push(outcome),
        }
    }
    let expected = [
        Outcome::Processed {
            sender: "system:serviceaccount:shop:web".to_owned(),
        },
        Outcome::Dropped {
            reason: "not_allowed",
        },
        Outcome::Dropped { reason: "expired" },
        Outcome::Dropped {
            reason: "wrong_audience",
        },
    ];
    assert_eq!(outcomes, expected);
    Ok(())
}

//! Rotates the client's token and the issuer's signing key, as a kubelet and an API server do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower_oidc_guard::testing::TestIssuer;

use super::AUDIENCE;
use super::report::Report;
use crate::Error;
use crate::output::{Component, EventLog};

/// The file of the token for the server.
pub(super) const TOKEN_FILE: &str = "gke-sa";
/// The file of a token for another audience, which the server must reject.
pub(super) const OTHER_AUDIENCE_FILE: &str = "other-audience";
const OTHER_AUDIENCE: &str = "https://other.example";

const TOKEN_LIFETIME: Duration = Duration::from_secs(4);
const ROTATION_INTERVAL: Duration = Duration::from_secs(2);
/// The number of token rotations between two new keys.
const KEY_PERIOD: usize = 10;
/// The rotation in each period at which the issuer starts to generate a new key. Tokens are signed with it from the next
/// rotation on, or later if generating the key takes longer.
const NEW_KEY_AT: usize = 2;
/// The number of rotations after which all tokens of the previous key have expired, so that it can be withdrawn.
const WITHDRAW_AFTER: usize = 2;

/// Writes tokens to the volume and rotates the issuer's key.
pub(super) struct Rotator<'s> {
    issuer: Arc<TestIssuer>,
    kubelet: &'s Kubelet,
    report: &'s Report,
    events: &'s EventLog,
    /// The number of token rotations so far.
    rotation: usize,
    /// The number of key rotations so far.
    key: usize,
    /// A key that is being generated. This takes a while, and tokens must still be replaced in time.
    new_key: Option<JoinHandle<io::Result<String>>>,
    /// The rotation at which the previous key is withdrawn.
    withdraw_at: Option<usize>,
}

impl<'s> Rotator<'s> {
    pub(super) fn new(
        issuer: Arc<TestIssuer>,
        kubelet: &'s Kubelet,
        report: &'s Report,
        events: &'s EventLog,
    ) -> Self {
        Self {
            issuer,
            kubelet,
            report,
            events,
            rotation: 0,
            key: 0,
            new_key: None,
            withdraw_at: None,
        }
    }

    /// Writes the first tokens.
    pub(super) fn write_first_tokens(&self) -> Result<(), Error> {
        self.write_tokens()?;
        let text = format!(
            "wrote a projected volume; tokens live {} s and are replaced every {} s",
            TOKEN_LIFETIME.as_secs(),
            ROTATION_INTERVAL.as_secs()
        );
        self.events
            .print(Component::Kubelet, "volume_written", &text);
        Ok(())
    }

    /// Rotates tokens and keys until dropped. Returns only if an operation fails.
    pub(super) async fn rotate(&mut self) -> Result<(), Error> {
        let mut next = Instant::now();
        loop {
            next += ROTATION_INTERVAL;
            tokio::time::sleep_until(next).await;
            self.rotation += 1;
            self.rotate_key().await?;
            self.write_tokens()?;
            let text = format!("replaced the token with token {}", self.rotation);
            self.events
                .print(Component::Kubelet, "token_rotated", &text);
        }
    }

    /// Performs the steps of the key rotation that are due at this token rotation.
    async fn rotate_key(&mut self) -> Result<(), Error> {
        if let Some(generated) = self.new_key.take_if(|generated| generated.is_finished()) {
            generated
                .await
                .map_err(io::Error::other)
                .and_then(|key_id| key_id)
                .map_err(Error::io("cannot generate a signing key"))?;
            self.key += 1;
            self.withdraw_at = Some(self.rotation + WITHDRAW_AFTER);
            let text = "signs with a new key; the previous one stays published for now";
            self.events.print(Component::Issuer, "key_rotated", text);
        }
        if self.rotation % KEY_PERIOD == NEW_KEY_AT && self.new_key.is_none() {
            let issuer = self.issuer.clone();
            let generated = tokio::task::spawn_blocking(move || issuer.rotate_key());
            self.new_key = Some(generated);
        }
        if self.withdraw_at == Some(self.rotation) {
            self.issuer.withdraw_old_keys();
            let text = "withdrew the previous key";
            self.events.print(Component::Issuer, "key_withdrawn", text);
        }
        Ok(())
    }

    /// Replaces the content of the volume with new tokens.
    fn write_tokens(&self) -> Result<(), Error> {
        let id = format!("token-{}", self.rotation);
        let spec = self
            .issuer
            .token()
            .service_account("id-namespace", "gke-sa")
            .lifetime(TOKEN_LIFETIME);
        let token = spec.clone().audience(AUDIENCE).token_id(&id).mint();
        let other = spec.audience(OTHER_AUDIENCE).mint();
        self.report.record_token(id, self.rotation, self.key);
        self.kubelet
            .write([(TOKEN_FILE, token), (OTHER_AUDIENCE_FILE, other)])
            .map_err(Error::io("cannot write the volume"))
    }
}

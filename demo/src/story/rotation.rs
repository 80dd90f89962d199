//! The kubelet's work, and the issuer's: new tokens on time, and a new key in between.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower_oidc_guard::testing::TestIssuer;

use super::AUDIENCE;
use super::ledger::Ledger;
use crate::Error;
use crate::narrator::{Narrator, Who};

/// The file of the token for the server.
pub(super) const TOKEN_FILE: &str = "gke-sa";
/// The file of a token for somebody else.
pub(super) const OTHER_AUDIENCE_FILE: &str = "other-audience";
const OTHER_AUDIENCE: &str = "https://other.example";

const LIFETIME: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_secs(2);
/// At this rotation the issuer begins to make a new key, and again each `KEY_PERIOD` rotations later. The tokens from the
/// next rotation on are signed with it, or from a later one if the machine is slow.
const NEW_KEY_AT: usize = 2;
const KEY_PERIOD: usize = 10;
/// So many rotations after a new key all tokens of the old one have expired, and it is withdrawn.
const WITHDRAWN_AFTER: usize = 2;

/// What rotates, and how far it has come.
pub(super) struct Rotations<'s> {
    issuer: Arc<TestIssuer>,
    kubelet: &'s Kubelet,
    ledger: &'s Ledger,
    narrator: &'s Narrator,
    rotation: usize,
    key: usize,
    /// A key that is being made. That takes a moment, and tokens have to be replaced in time all the same.
    new_key: Option<JoinHandle<io::Result<String>>>,
    /// The rotation at which the old key is withdrawn.
    withdraw_at: Option<usize>,
}

impl<'s> Rotations<'s> {
    pub(super) fn new(
        issuer: Arc<TestIssuer>,
        kubelet: &'s Kubelet,
        ledger: &'s Ledger,
        narrator: &'s Narrator,
    ) -> Self {
        Self {
            issuer,
            kubelet,
            ledger,
            narrator,
            rotation: 0,
            key: 0,
            new_key: None,
            withdraw_at: None,
        }
    }

    /// Writes the first tokens.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.write()?;
        let text = format!(
            "wrote a projected volume; its tokens live {} s, and are replaced every {} s",
            LIFETIME.as_secs(),
            INTERVAL.as_secs()
        );
        self.narrator.tell(Who::Kubelet, "volume_written", &text);
        Ok(())
    }

    /// Rotates on and on.
    pub(super) async fn go_on(&mut self) -> Result<(), Error> {
        let mut next = Instant::now();
        loop {
            next += INTERVAL;
            tokio::time::sleep_until(next).await;
            self.rotation += 1;
            self.rotate_key().await?;
            self.write()?;
            let text = format!("swapped in token {}", self.rotation);
            self.narrator.tell(Who::Kubelet, "token_rotated", &text);
        }
    }

    async fn rotate_key(&mut self) -> Result<(), Error> {
        if let Some(made) = self.new_key.take_if(|made| made.is_finished()) {
            made.await
                .map_err(io::Error::other)
                .and_then(|made| made)
                .map_err(Error::io("no key can be made"))?;
            self.key += 1;
            self.withdraw_at = Some(self.rotation + WITHDRAWN_AFTER);
            let text = "signs with a new key from now on; the old one stays published for a while";
            self.narrator.tell(Who::Issuer, "key_rotated", text);
        }
        if self.rotation % KEY_PERIOD == NEW_KEY_AT && self.new_key.is_none() {
            let issuer = self.issuer.clone();
            let made = tokio::task::spawn_blocking(move || issuer.rotate_key());
            self.new_key = Some(made);
        }
        if self.withdraw_at == Some(self.rotation) {
            self.issuer.withdraw_old_keys();
            self.narrator
                .tell(Who::Issuer, "key_withdrawn", "withdrew the old key");
        }
        Ok(())
    }

    fn write(&self) -> Result<(), Error> {
        let id = format!("token-{}", self.rotation);
        let spec = self
            .issuer
            .token()
            .service_account("id-namespace", "gke-sa")
            .lifetime(LIFETIME);
        let token = spec.clone().audience(AUDIENCE).token_id(&id).mint();
        let other = spec.audience(OTHER_AUDIENCE).mint();
        self.ledger.written(id, self.rotation, self.key);
        self.kubelet
            .write([(TOKEN_FILE, token), (OTHER_AUDIENCE_FILE, other)])
            .map_err(Error::io("the volume cannot be written"))
    }
}

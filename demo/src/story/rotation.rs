//! The kubelet's work, and the issuer's: new tokens on time, and a new key in between.

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
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
/// The first token of a new key is that of this rotation, and again of each so many rotations later.
const NEW_KEY_AT: usize = 3;
/// So many rotations later all tokens of the old key have expired, and it is withdrawn.
const WITHDRAWN_AFTER: usize = 2;
const KEY_PERIOD: usize = 10;

/// What rotates, and how far it has come.
pub(super) struct Rotations<'s> {
    issuer: &'s TestIssuer,
    kubelet: &'s Kubelet,
    ledger: &'s Ledger,
    narrator: &'s Narrator,
    rotation: usize,
    key: usize,
}

impl<'s> Rotations<'s> {
    pub(super) fn new(
        issuer: &'s TestIssuer,
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
            self.rotate_key()?;
            self.write()?;
            let text = format!("swapped in token {}", self.rotation);
            self.narrator.tell(Who::Kubelet, "token_rotated", &text);
        }
    }

    fn rotate_key(&mut self) -> Result<(), Error> {
        if self.rotation % KEY_PERIOD == NEW_KEY_AT {
            self.issuer
                .rotate_key()
                .map_err(Error::io("no key can be made"))?;
            self.key += 1;
            let text = "signs with a new key from now on; the old one stays published for a while";
            self.narrator.tell(Who::Issuer, "key_rotated", text);
        }
        if self.rotation % KEY_PERIOD == NEW_KEY_AT + WITHDRAWN_AFTER {
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

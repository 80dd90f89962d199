//! The rest of the story: Google's identity, the platform's gate, several audiences, and an issuer that goes away.

mod acts;
mod stage;

use std::sync::Arc;

use self::stage::Stage;
use super::ledger::Ledger;
use crate::Error;
use crate::narrator::Narrator;

/// Plays it, act by act. What is not answered as it should be is counted in the ledger.
pub(super) async fn play(ledger: &Arc<Ledger>, narrator: &Narrator) -> Result<(), Error> {
    let stage = Stage::set(ledger, narrator).await?;
    acts::gate(&stage).await?;
    acts::policy(&stage).await?;
    acts::both_gates(&stage).await?;
    acts::audiences(&stage).await?;
    acts::outage(&stage).await
}

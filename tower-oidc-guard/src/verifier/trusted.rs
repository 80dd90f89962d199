//! A trusted issuer: its names, its rules and its keys.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::error::{FailedVerification, VerifyError};
use crate::clock::Clock;
use crate::identity::{Identity, IssuerNames, Platform};
use crate::issuer::{GITHUB_ACTIONS, GITLAB, Issuer};
use crate::jose::claim_rules::ClaimRules;
use crate::jose::claims::Times;
use crate::jose::required_claims::{ClaimPredicates, RequiredClaims};
use crate::jose::{TokenError, UnverifiedToken};
use crate::keys::store::CurrentKeys;
use crate::keys::{Keys, KeysSnapshot, NoNewerKeys};
use crate::policy::PublicIssuer;
use crate::revocation::Revocation;
use crate::telemetry::AllowedCounter;
use crate::token_review::{Knowledge, KnownToken, ReviewedToken, TokenReviews};
use crate::validity::Validity;

/// An issuer whose tokens are accepted.
pub(crate) struct TrustedIssuer {
    /// The name of the issuer in logs and metrics. It is one of a fixed set and never changes.
    pub(crate) label: Arc<str>,
    /// Counts the tokens of the issuer that are allowed.
    pub(crate) allowed: Arc<AllowedCounter>,
    /// The value that the `iss` claim of its tokens must equal.
    pub(crate) issuer: IssuerName,
    /// Other accepted values of `iss`, from the settings.
    pub(crate) other_issuers: Vec<String>,
    /// The accepted values of `iss` that identities show as [`issuer`](Self::issuer): other spellings of the same name.
    pub(crate) spellings: Vec<String>,
    /// All accepted values of `iss` that were known when the guard was built. Policies may use any of them, whichever the
    /// issuer's tokens have at the moment.
    pub(crate) configured_issuers: Arc<[String]>,
    /// The configured values of `iss` of the guard's other issuers. An API server that announces one of them as its own does
    /// not become that issuer: policies that use it mean the configured one.
    pub(crate) issuers_of_others: HashSet<String>,
    pub(crate) platform: Platform,
    pub(crate) claim_rules: ClaimRules,
    pub(crate) required_claims: RequiredClaims,
    pub(crate) claim_predicates: ClaimPredicates,
    /// Shared with the verifier that this one replaces, if the issuer's keys come from the same place.
    pub(crate) keys: Arc<Keys>,
    /// The settings that this was resolved from.
    #[cfg_attr(not(feature = "policy-file"), expect(dead_code))]
    pub(crate) settings: Issuer,
    /// Has tokens confirmed by the cluster's API server; `None` if that is turned off. Shared with the verifier that this one
    /// replaces, if the settings are the same.
    pub(crate) reviews: Option<Arc<TokenReviews>>,
    /// The clock that tokens are verified with.
    pub(crate) clock: Clock,
}

/// The `iss` of an issuer's tokens.
#[derive(PartialEq, Eq)]
pub(crate) enum IssuerName {
    /// It was configured.
    Configured(Arc<str>),
    /// It is announced by the cluster's API server together with the keys, and may change.
    FromKeys {
        /// The `iss` of the pod's own token when the guard was built, which is used until there are keys.
        initial: Option<Arc<str>>,
    },
}

/// The result of verifying a token with the keys that are available.
pub(crate) enum TokenStatus {
    /// The token is valid.
    Verified(Identity),
    /// The token has to wait until that is known.
    Pending(PendingToken),
}

/// A token that has to wait until it is known whether it is valid.
pub(crate) enum PendingToken {
    /// The token is not valid with the available keys, but may be with newer ones.
    NewerKeys(PendingKeys),
    /// The token has passed all other checks, and the cluster's API server has to confirm it.
    Review(PendingReview),
}

/// A token that has passed all checks but the review by the cluster's API server.
pub(crate) struct PendingReview {
    /// The index of its issuer.
    pub(super) issuer: usize,
    /// The generation of the keys that verified it.
    pub(super) generation: u64,
    pub(super) identity: Identity,
}

impl PendingReview {
    /// Returns the identity in the token. Not a reason to admit a request before the review.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The result of verifying a token with the available keys.
pub(super) struct Verification {
    pub(super) status: TokenStatus,
    /// The generation of the keys.
    pub(super) generation: u64,
    /// The state of the token's reviews, if the cluster's API server was asked.
    pub(super) review: Option<Arc<ReviewedToken>>,
}

/// A token that the available keys do not verify, although newer keys may.
pub(crate) struct PendingKeys {
    /// The index of its issuer.
    pub(super) issuer: usize,
    /// The keys that were available.
    pub(super) seen: KeysSnapshot,
    /// Why those keys do not verify it.
    pub(super) error: TokenError,
}

impl TrustedIssuer {
    /// Verifies a token with the keys that are available.
    ///
    /// `index` is the index of this issuer, and `bytes` is the text of the token.
    pub(super) fn verify(
        &self,
        index: usize,
        bytes: &[u8],
        token: UnverifiedToken<'_>,
        now: Duration,
    ) -> Result<Verification, FailedVerification> {
        let is_accepted = self.accepts_issuer(token.issuer());
        let times = token.times();
        let validated = token.validate_claims(&self.claim_rules, now);
        if validated.is_err() && !is_accepted {
            return Err(TokenError::UnknownIssuer.into());
        }
        let token = validated.map_err(|error| self.failed_at(error, &times, now))?;
        let seen = self.keys.snapshot();
        let pending = |seen, error, generation| Verification {
            status: TokenStatus::Pending(PendingToken::NewerKeys(PendingKeys {
                issuer: index,
                seen,
                error,
            })),
            generation,
            review: None,
        };
        let Some(current) = &seen.current else {
            return Ok(pending(seen, TokenError::UnknownKey, 0));
        };
        let generation = current.generation;
        // The keys may have been replaced since `accepts_issuer`, and the name withdrawn with them.
        if !is_accepted || !self.accepts_issuer_with(current, token.issuer()) {
            return Ok(pending(seen, TokenError::UnknownIssuer, generation));
        }
        let verified = match token.verify(&current.keys) {
            Ok(verified) => verified,
            Err(error) if self.keys.may_fix(error) => {
                return Ok(pending(seen, error.into(), generation));
            }
            Err(error) => return Err(self.failed(TokenError::from(error).into())),
        };
        let payload = verified.payload();
        let required = self.required_claims.validate(payload);
        let required = required.and_then(|()| self.claim_predicates.validate(payload));
        let names = self.identity_names(&verified.claims().issuer, current);
        let reviews = self.reviews.as_deref().filter(|_| required.is_ok());
        let known = reviews.map_or(KnownToken::New, |reviews| reviews.find(bytes));
        let revocation = reviews.map(|_| known.revocation().unwrap_or_else(Revocation::new));
        let validity = self.validity(&times, revocation);
        let identity = Identity::new(names, self.platform, &verified, validity);
        if let Err(error) = required {
            return Err(self.failed_caller(error.into(), identity));
        }
        let status = self.review_status(index, generation, identity, &known)?;
        Ok(Verification {
            status,
            generation,
            review: known.into_kept(),
        })
    }

    /// Returns the status of a token that has passed all other checks, by what the cluster's API server has said about it.
    pub(super) fn review_status(
        &self,
        index: usize,
        generation: u64,
        identity: Identity,
        known: &KnownToken,
    ) -> Result<TokenStatus, FailedVerification> {
        let Some(reviews) = &self.reviews else {
            return Ok(TokenStatus::Verified(identity));
        };
        let knowledge = match known {
            KnownToken::Kept(token) => reviews.check(token),
            KnownToken::Refused(error) => Knowledge::Refused(*error),
            KnownToken::New => Knowledge::Unknown,
        };
        match knowledge {
            Knowledge::Accepted => Ok(TokenStatus::Verified(identity)),
            Knowledge::Refused(error) => Err(self.failed_caller(error.into(), identity)),
            Knowledge::Unknown => {
                let review = PendingReview {
                    issuer: index,
                    generation,
                    identity,
                };
                Ok(TokenStatus::Pending(PendingToken::Review(review)))
            }
        }
    }

    /// Returns the failure of a token whose signature was verified.
    pub(super) fn failed_caller(&self, error: VerifyError, caller: Identity) -> FailedVerification {
        FailedVerification {
            caller: Some(caller),
            ..self.failed(error)
        }
    }

    /// Returns how long a token with these times may be used.
    pub(super) fn validity(&self, times: &Times, revocation: Option<Revocation>) -> Validity {
        Validity {
            end: times.expires_at.saturating_add(self.claim_rules.leeway),
            clock: self.clock.clone(),
            revocation,
        }
    }

    /// Returns whether this issuer accepts exactly the tokens that another one accepts, with the same keys and the same identities.
    #[cfg(feature = "policy-file")]
    pub(super) fn verifies_like(&self, other: &Self) -> bool {
        let is_named_by_keys = matches!(self.issuer, IssuerName::FromKeys { .. });
        let reviews = |issuer: &Self| issuer.reviews.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.keys, &other.keys)
            && reviews(self) == reviews(other)
            && self.settings.is_same(&other.settings)
            && self.issuer == other.issuer
            && self.label == other.label
            && (!is_named_by_keys || self.issuers_of_others == other.issuers_of_others)
    }

    /// Returns the issuer names for the identity of a token with this `iss`.
    pub(super) fn identity_names(&self, iss: &str, current: &CurrentKeys) -> IssuerNames {
        let label = self.label.clone();
        let is_label = *iss == *label || self.spellings.iter().any(|spelling| spelling == iss);
        let is_own = |name: &&Arc<str>| !self.issuers_of_others.contains(&***name);
        let announced = || current.issuers.iter().filter(is_own);
        let issuer = if is_label {
            label.clone()
        } else {
            announced()
                .find(|name| ***name == *iss)
                .map_or_else(|| Arc::from(iss), Arc::clone)
        };
        let configured = &self.configured_issuers;
        let is_configured = |name: &Arc<str>| configured.iter().any(|own| **own == **name);
        let accepted = if announced().all(is_configured) {
            configured.clone()
        } else {
            let announced = announced().map(|name| name.to_string());
            announced.chain(configured.iter().cloned()).collect()
        };
        IssuerNames {
            issuer,
            accepted,
            label,
            allowed: self.allowed.clone(),
        }
    }

    /// Returns the failure of a token of this issuer.
    pub(super) fn failed(&self, error: VerifyError) -> FailedVerification {
        // The token of an unknown issuer is not one of this issuer.
        let is_own = error != VerifyError::InvalidToken(TokenError::UnknownIssuer);
        FailedVerification {
            error,
            issuer_label: is_own.then(|| self.label.clone()),
            caller: None,
            clock_difference: None,
        }
    }

    /// Returns the failure of a token of this issuer with these times. `now` is the time since the Unix epoch.
    pub(super) fn failed_at(
        &self,
        error: TokenError,
        times: &Times,
        now: Duration,
    ) -> FailedVerification {
        FailedVerification {
            clock_difference: times.distance(error, now),
            ..self.failed(error.into())
        }
    }

    /// Returns which public issuer this is, if anyone can get one of its tokens that is accepted.
    pub(super) fn public(&self) -> Option<PublicIssuer> {
        let is_named = |iss: &str| self.configured_issuers.iter().any(|own| own == iss);
        let public = match self.platform {
            Platform::Google => return Some(PublicIssuer::Google),
            Platform::GitHubActions if is_named(GITHUB_ACTIONS) => PublicIssuer::GitHubActions,
            Platform::GitLab if is_named(GITLAB) => PublicIssuer::GitLab,
            _ => return None,
        };
        let is_restricted =
            !self.claim_predicates.is_empty() || public.is_restricted_by(&self.required_claims);
        (!is_restricted).then_some(public)
    }

    /// Returns the `iss` of the issuer's new tokens, or `None` if it is not known yet.
    pub(super) fn current_issuer(&self) -> Option<Arc<str>> {
        match &self.issuer {
            IssuerName::Configured(issuer) => Some(issuer.clone()),
            IssuerName::FromKeys { initial } => {
                let announced = self.keys.issuers();
                let first = announced.and_then(|names| names.into_iter().next());
                first.or_else(|| initial.clone())
            }
        }
    }

    /// Returns whether tokens with this `iss` are accepted, as far as is known without waiting for keys.
    ///
    /// For an issuer with a configured name this is always true, because it was found by that name.
    pub(super) fn accepts_issuer(&self, iss: &str) -> bool {
        let IssuerName::FromKeys { initial } = &self.issuer else {
            return true;
        };
        let is_initial = || initial.as_ref().is_some_and(|initial| **initial == *iss);
        self.keys.has_issuer(iss).unwrap_or_else(is_initial)
            || self.other_issuers.iter().any(|other| other == iss)
    }

    /// Returns whether tokens with this `iss` are accepted according to these keys.
    fn accepts_issuer_with(&self, current: &CurrentKeys, iss: &str) -> bool {
        matches!(self.issuer, IssuerName::Configured(_))
            || current.issuers.iter().any(|name| **name == *iss)
            || self.other_issuers.iter().any(|other| other == iss)
    }
}

impl NoNewerKeys {
    /// Returns the error for a token that the available keys do not verify because of `error`.
    pub(super) fn into_error(self, error: TokenError) -> VerifyError {
        if self.has_usable {
            VerifyError::InvalidToken(error)
        } else {
            VerifyError::KeysUnavailable {
                retry_after: self.retry_after,
            }
        }
    }
}

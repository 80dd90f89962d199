//! Which issuers must have usable keys for a guard to be ready.

use std::future::poll_fn;
use std::task::Poll;

use super::error::{MissingKeys, NotReady};
use super::{IssuerName, TrustedIssuer};
use crate::build_error::BuildError;
use crate::issuer::IN_CLUSTER_LABEL;
#[cfg(doc)]
use crate::issuer::Issuer;

/// Which issuers must have usable keys for a guard to be ready; see
/// [`OidcGuardBuilder::ready_when`](crate::OidcGuardBuilder::ready_when).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadyWhen {
    /// Every issuer.
    #[default]
    AllIssuers,
    /// At least one issuer, whichever it is.
    AnyIssuer,
    /// These issuers: each is the `iss` of an issuer's tokens as configured, or its label, as [`Issuer::label`] returns it or as
    /// in logs and metrics.
    Issuers(Vec<String>),
}

impl ReadyWhen {
    /// Requires these issuers: each is the `iss` of an issuer's tokens as configured, or its label, as [`Issuer::label`] returns
    /// it or as in logs and metrics.
    ///
    /// ```
    /// # use tower_oidc_guard::ReadyWhen;
    /// let required = ReadyWhen::issuers(["https://cluster.example"]);
    /// assert_eq!(required, ReadyWhen::Issuers(vec!["https://cluster.example".to_owned()]));
    /// ```
    pub fn issuers<I: Into<String>>(issuers: impl IntoIterator<Item = I>) -> Self {
        Self::Issuers(issuers.into_iter().map(Into::into).collect())
    }
}

/// The issuers that [`ReadyWhen`] requires, resolved against the trusted ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequiredIssuers {
    /// Any one of the trusted issuers.
    Any,
    /// The issuers with these indices, at least one.
    Each(Vec<usize>),
}

impl RequiredIssuers {
    /// Finds the issuers. A name that belongs to none of them is an error.
    pub(crate) fn resolve(
        ready_when: &ReadyWhen,
        trusted: &[TrustedIssuer],
    ) -> Result<Self, BuildError> {
        let names = match ready_when {
            ReadyWhen::AllIssuers => return Ok(Self::Each((0..trusted.len()).collect())),
            ReadyWhen::AnyIssuer => return Ok(Self::Any),
            ReadyWhen::Issuers(names) => names,
        };
        let mut required = Vec::new();
        for name in names {
            let is_named = |issuer: &TrustedIssuer| {
                let is_in_cluster = matches!(issuer.issuer, IssuerName::FromKeys { .. });
                *issuer.label == **name
                    || issuer.configured_issuers.contains(name)
                    || is_in_cluster && name == IN_CLUSTER_LABEL
            };
            let index = trusted.iter().position(is_named);
            let index = index.ok_or_else(|| {
                let labels = trusted.iter().map(|issuer| format!("{:?}", issuer.label));
                let labels = labels.collect::<Vec<_>>().join(", ");
                BuildError::ReadyWhen {
                    reason: format!(
                        "{name:?} is no trusted issuer; expected one of {labels}, exactly as configured"
                    ),
                }
            })?;
            if !required.contains(&index) {
                required.push(index);
            }
        }
        if required.is_empty() {
            return Err(BuildError::ReadyWhen {
                reason: "the list of issuers is empty, so the guard would be ready without any key; list an issuer, or use `ReadyWhen::AnyIssuer`".to_owned(),
            });
        }
        Ok(Self::Each(required))
    }

    /// Returns whether the issuer with this index has to have usable keys, whatever others have.
    pub(super) fn contains(&self, index: usize) -> bool {
        match self {
            Self::Any => false,
            Self::Each(required) => required.contains(&index),
        }
    }

    /// Returns whether enough issuers have usable keys. `is_ready` states it for the issuer with an index.
    pub(super) fn are_ready(&self, trusted: usize, is_ready: impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Any => (0..trusted).any(is_ready),
            Self::Each(required) => required.iter().all(|index| is_ready(*index)),
        }
    }

    /// Waits until enough issuers have usable keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the next fetches for too many of them fail.
    pub(super) async fn wait(&self, trusted: &[TrustedIssuer]) -> Result<(), NotReady> {
        let is_required = |index: &usize| *self == Self::Any || self.contains(*index);
        let required = (0..trusted.len()).filter(is_required);
        let issuers = required.filter_map(|index| trusted.get(index));
        // Without the keys of any issuer, no request can be served.
        let may_join =
            *self != Self::Any && trusted.iter().any(|issuer| issuer.keys.health().is_ready);
        let issuers = issuers.filter(|issuer| !may_join || !issuer.keys.is_joining());
        // The future of each issuer, until it has completed.
        let mut waiting: Vec<_> = issuers
            .map(|issuer| (issuer, Some(Box::pin(issuer.keys.ready()))))
            .collect();
        // In the order of the issuers, whichever fails first.
        let mut missing: Vec<Option<MissingKeys>> = waiting.iter().map(|_| None).collect();
        poll_fn(|cx| {
            for ((issuer, future), missing) in waiting.iter_mut().zip(&mut missing) {
                let Some(ready) = future else { continue };
                match ready.as_mut().poll(cx) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(())) if *self == Self::Any => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(cause)) => {
                        let issuer = issuer.label.to_string();
                        *missing = Some(MissingKeys { issuer, cause });
                    }
                }
                *future = None;
            }
            if waiting.iter().any(|(_, future)| future.is_some()) {
                return Poll::Pending;
            }
            let mut missing = missing.iter_mut().filter_map(Option::take);
            Poll::Ready(match missing.next() {
                None => Ok(()),
                Some(first) => Err(NotReady {
                    first,
                    others: missing.collect(),
                }),
            })
        })
        .await
    }
}

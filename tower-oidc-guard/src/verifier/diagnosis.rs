//! Diagnoses tokens: makes every check of [`TokenVerifier::try_verify`], and goes on after one has failed.
//!
//! The checks are in the order of verification, so that the first one that fails is the one that verification stops at.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use url::Url;

use super::{MAX_WAIT, TokenVerifier, TrustedIssuer};
use crate::diagnosis::Check;
use crate::identity::Identity;
use crate::jose::algorithm::Algorithm;
use crate::jose::claim_rules::ClaimRules;
use crate::jose::claims::{Claims, Times};
use crate::jose::inspection::{ClaimResults, Inspection, Parameters};
use crate::jose::{
    MALFORMED_HEADER, SignatureError, TokenError, UnverifiedJws, UnverifiedToken, VerifiedToken,
};
use crate::keys::clock_offset::ClockOffset;
use crate::keys::store::CurrentKeys;
use crate::text::{is_invisible, log_line, printable, quoted_excerpt, quoted_list};
use crate::token_review::{ReviewDescription, WhenUnavailable};

/// How much longer than its time limit a fetch is waited for.
const WAIT_MARGIN: Duration = Duration::from_secs(1);
/// The reason of a rejection because of missing keys, as [`VerifyError::reason`](super::VerifyError::reason) returns it.
const KEYS_UNAVAILABLE: &str = "keys_unavailable";
/// The reason of a rejection because a token could not be reviewed, as [`VerifyError::reason`](super::VerifyError::reason)
/// returns it.
const TOKEN_REVIEW_UNAVAILABLE: &str = "token_review_unavailable";
const UNREADABLE: &str = "the token could not be read";
/// The text that Google's front ends put in place of the signature of a token that they have checked.
const REMOVED_SIGNATURE: &[u8] = b"SIGNATURE_REMOVED_BY_GOOGLE";
/// The audiences of the API server's own tokens begin with this.
const API_SERVER_AUDIENCE: &str = "https://kubernetes.default.svc";

const HEADER: &str = "header";
const ALGORITHM: &str = "algorithm";
const CLAIMS: &str = "claims";
const ISSUER: &str = "issuer";
const TYPE: &str = "type";
const AUDIENCE: &str = "audience";
const SENDER: &str = "sender constraint";
const LIFETIME: &str = "lifetime";
const EXPIRY: &str = "expiry";
const NOT_BEFORE: &str = "not before";
const ISSUED_AT: &str = "time of issue";
const ALLOWED_ALGORITHM: &str = "allowed algorithm";
const KEYS: &str = "keys";
const KEY: &str = "key";
const SIGNATURE: &str = "signature";
const REQUIRED_CLAIMS: &str = "required claims";
const REVIEW: &str = "token review";
const CLAIM_CONDITIONS: &str = "claim conditions";

/// The checks of a token, and its identity if its signature is valid.
pub(crate) struct TokenChecks {
    pub(crate) checks: Vec<Check>,
    /// The identity in the token, even if another check has failed. Never a reason to admit a request.
    pub(crate) caller: Option<Identity>,
}

/// The issuer whose rules and keys a token is checked with.
struct Candidate<'v> {
    issuer: &'v TrustedIssuer,
    /// The difference between the token's `iss` and the names of that issuer, if it has none of them.
    mismatch: Option<String>,
}

impl TokenVerifier {
    /// Waits until the keys are available that a token is verified with, or cannot be fetched.
    pub(crate) async fn wait_for_keys_of(&self, token: &[u8]) {
        let inspection = Inspection::read(token, self.0.max_token_bytes);
        let candidate = inspection
            .claims()
            .and_then(|claims| self.candidate(&claims.issuer));
        let Some(Candidate { issuer, .. }) = candidate else {
            return;
        };
        if Handle::try_current().is_ok() {
            let limit = issuer.keys.time_limit().saturating_add(WAIT_MARGIN);
            // The result is in the checks.
            let _ = timeout(limit.max(MAX_WAIT), issuer.keys.ready()).await;
        }
    }

    /// Returns the fault in the compact serialization of a token, or in the encoding of its parts. Faults in the content of the
    /// header are found by separate checks.
    pub(crate) fn check_format(&self, token: &[u8]) -> Result<(), TokenError> {
        match UnverifiedJws::parse(token, self.0.max_token_bytes) {
            Err(TokenError::UnsupportedAlgorithm | MALFORMED_HEADER) | Ok(_) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Returns the limit on the length of a token.
    pub(crate) fn max_token_bytes(&self) -> usize {
        self.0.max_token_bytes
    }

    /// Makes every check of a token whose format is valid, with the keys that are available.
    pub(crate) fn check_token(&self, token: &[u8]) -> TokenChecks {
        let inspection = Inspection::read(token, self.0.max_token_bytes);
        let mut checks = vec![
            check_header(&inspection),
            check_algorithm(&inspection),
            check_claims(&inspection),
        ];
        let Some(claims) = inspection.claims() else {
            let rest = [
                ISSUER, TYPE, AUDIENCE, SENDER, LIFETIME, EXPIRY, NOT_BEFORE, ISSUED_AT,
            ];
            checks.extend(rest.map(|name| Check::not_checked(name, UNREADABLE)));
            checks.extend(uncheckable_keys(UNREADABLE));
            return TokenChecks {
                checks,
                caller: None,
            };
        };
        let Some(candidate) = self.candidate(&claims.issuer) else {
            const WHY: &str = "the issuer is not known";
            checks.push(
                self.failed_issuer(&claims.issuer)
                    .with_hint("check the configured issuers".to_owned()),
            );
            let rest = [
                TYPE, AUDIENCE, SENDER, LIFETIME, EXPIRY, NOT_BEFORE, ISSUED_AT,
            ];
            checks.extend(rest.map(|name| Check::not_checked(name, WHY)));
            checks.extend(uncheckable_keys(WHY));
            return TokenChecks {
                checks,
                caller: None,
            };
        };
        let now = self.0.clock.since_epoch();
        let issuer = candidate.issuer;
        let rules = &issuer.claim_rules;
        let current = issuer.keys.snapshot().current;
        let current = current.as_deref();
        let parameters = inspection.parameters.as_ref();
        let typ = parameters.and_then(|parameters| parameters.typ.as_deref());
        let results = rules.validate_each(typ, &claims, now);
        checks.push(self.check_issuer(&claims, &candidate, current, results.is_valid()));
        checks.push(match parameters {
            Some(_) => check_type(rules, typ, results.typ),
            None => Check::not_checked(TYPE, UNREADABLE),
        });
        checks.push(check_audience(rules, &claims, results.audience));
        checks.push(check(SENDER, results.sender, || {
            let found = if claims.is_sender_constrained {
                "a claim `cnf`, which binds the token to a key of its sender"
            } else {
                "no claim `cnf`"
            };
            found.to_owned()
        }));
        checks.push(check_lifetime(rules, &claims.times, results.lifetime));
        let offset = current.and_then(|current| current.clock_offset);
        checks.extend(check_times(rules, &claims.times, &results, offset, now));
        let caller = self.check_keys(token, &inspection, issuer, current, &mut checks);
        TokenChecks { checks, caller }
    }

    /// Returns the check whether the cluster's API server confirms a token of this caller, or `None` if its issuer's tokens are
    /// not reviewed. `token` is `None` if another check has failed, so that the API server is not asked.
    pub(crate) fn check_review(&self, caller: &Identity, token: Option<&[u8]>) -> Option<Check> {
        let mut issuers = self.0.issuers.iter();
        let issuer = issuers.find(|issuer| issuer.label == *caller.issuer_label())?;
        let reviews = issuer.reviews.as_ref()?;
        let Some(token) = token else {
            return Some(Check::not_checked(
                REVIEW,
                "another check has failed, so the API server is not asked",
            ));
        };
        Some(
            match (reviews.describe(token), reviews.when_unavailable()) {
                (ReviewDescription::Confirmed, _) => {
                    Check::passed(REVIEW, "the API server confirms the token")
                }
                (ReviewDescription::Refused { error, text }, _) => {
                    Check::failed(REVIEW, error.reason(), text)
                }
                (ReviewDescription::NotReviewed(why), WhenUnavailable::Accept) => Check::passed(
                    REVIEW,
                    format!(
                        "accepted without confirmation by the API server (`WhenUnavailable::Accept`): {why}"
                    ),
                ),
                (ReviewDescription::NotReviewed(why), WhenUnavailable::Refuse) => {
                    Check::failed(REVIEW, TOKEN_REVIEW_UNAVAILABLE, why)
                }
            },
        )
    }

    /// Makes the checks that require keys. Returns the caller if the signature is valid.
    fn check_keys(
        &self,
        token: &[u8],
        inspection: &Inspection<'_>,
        issuer: &TrustedIssuer,
        current: Option<&CurrentKeys>,
        checks: &mut Vec<Check>,
    ) -> Option<Identity> {
        let usable = current.map_or(0, |current| current.keys.usable());
        let algorithm = inspection.parameters.as_ref();
        let algorithm = algorithm.and_then(|parameters| parameters.algorithm().ok());
        let is_final = usable > 0 || !issuer.keys.may_fix(SignatureError::AlgorithmNotAllowed);
        checks.push(match (algorithm, current) {
            (Some(algorithm), Some(current)) if is_final => {
                check_allowed_algorithm(algorithm, current)
            }
            (None, _) => Check::not_checked(ALLOWED_ALGORITHM, UNREADABLE),
            _ => Check::not_checked(ALLOWED_ALGORITHM, "the issuer's keys are not available"),
        });
        checks.push(check_available_keys(issuer, current, usable));
        let verified = current.and_then(|current| {
            let result = inspection.verify_signature(&current.keys)?;
            Some((current, result))
        });
        let payload = inspection.payload().unwrap_or_default();
        let (current, result) = match (verified, inspection.parameters.as_ref()) {
            (Some((current, result)), Some(parameters)) if usable > 0 => {
                checks.extend(check_signature(inspection, parameters, current, result));
                (current, result)
            }
            _ => {
                let why = if usable == 0 {
                    "the issuer's keys are not available"
                } else {
                    UNREADABLE
                };
                checks.extend([KEY, SIGNATURE].map(|name| Check::not_checked(name, why)));
                checks.push(check_required_claims(issuer, payload));
                checks.push(unchecked_conditions());
                return None;
            }
        };
        checks.push(check_required_claims(issuer, payload));
        let jws = UnverifiedJws::parse(token, self.0.max_token_bytes).ok();
        let verified = jws.as_ref().filter(|_| result.is_ok()).and_then(|jws| {
            let token = UnverifiedToken::parse(jws).ok()?;
            token.verify_for_diagnosis(&current.keys).ok()
        });
        match verified {
            Some(verified) => {
                checks.push(check_claim_conditions(issuer, &verified));
                let names = issuer.identity_names(&verified.claims().issuer, current);
                let validity = issuer.validity(&verified.claims().times, None);
                Some(Identity::new(names, issuer.platform, &verified, validity))
            }
            None => {
                checks.push(unchecked_conditions());
                None
            }
        }
    }

    /// Returns the issuer whose rules a token with this `iss` is checked with: the one that has issued it, or else the one that
    /// was probably meant. Returns `None` if several may be meant.
    fn candidate(&self, iss: &str) -> Option<Candidate<'_>> {
        let issuers = &self.0.issuers;
        let index = self.index_of_issuer(iss);
        let exact = index.and_then(|index| issuers.get(index));
        if let Some(issuer) = exact.filter(|issuer| issuer.accepts_issuer(iss)) {
            return Some(Candidate {
                issuer,
                mismatch: None,
            });
        }
        let similar = issuers.iter().find_map(|issuer| {
            let names = issuer.known_names();
            let difference = names
                .iter()
                .find_map(|trusted| Some((trusted, difference(iss, trusted)?)));
            let (trusted, difference) = difference?;
            let hint = format!(
                "differs from the trusted {} {difference}",
                quoted_excerpt(trusted)
            );
            Some((issuer, hint))
        });
        let (similar, hint) = similar.unzip();
        let only = match &issuers[..] {
            [only] => Some(only),
            _ => None,
        };
        let issuer = exact.or(similar).or(only)?;
        let hint = hint.unwrap_or_else(|| "the token is from another issuer".to_owned());
        let note = format!(
            "{hint}; the other checks use the rules and keys of {}",
            quoted_excerpt(&issuer.label)
        );
        Some(Candidate {
            issuer,
            mismatch: Some(note),
        })
    }

    fn check_issuer(
        &self,
        claims: &Claims<'_>,
        candidate: &Candidate<'_>,
        current: Option<&CurrentKeys>,
        has_valid_claims: bool,
    ) -> Check {
        let iss = &*claims.issuer;
        let Some(mismatch) = &candidate.mismatch else {
            return Check::passed(ISSUER, quoted_excerpt(iss));
        };
        // The cluster that this process runs in may have another name by now, which only its API server knows. Without its
        // keys, the name of a token with valid claims is not judged.
        let has_keys = current.is_some_and(|current| current.keys.usable() > 0);
        let is_exact = self.index_of_issuer(iss).is_some();
        if is_exact && has_valid_claims && !has_keys {
            return Check::not_checked(
                ISSUER,
                format!(
                    "{}; whether it is the cluster's issuer is known once the keys are available",
                    quoted_excerpt(iss)
                ),
            );
        }
        self.failed_issuer(iss).with_hint(mismatch.clone())
    }

    fn failed_issuer(&self, iss: &str) -> Check {
        let names = self.0.issuers.iter().flat_map(TrustedIssuer::known_names);
        let reason = TokenError::UnknownIssuer.reason();
        Check::failed(ISSUER, reason, quoted_excerpt(iss))
            .with_expected(format!("one of the trusted issuers {}", quoted_list(names)))
    }
}

impl TrustedIssuer {
    /// Returns all values of `iss` that are accepted, as far as they are known.
    fn known_names(&self) -> Vec<String> {
        let announced = self.keys.issuers().unwrap_or_default();
        let mut names: Vec<_> = announced.iter().map(|name| name.to_string()).collect();
        let configured = self.configured_issuers.iter();
        let configured = configured.filter(|name| names.is_empty() || self.accepts_issuer(name));
        let configured: Vec<_> = configured
            .filter(|name| !names.contains(name))
            .cloned()
            .collect();
        names.extend(configured);
        names
    }
}

impl ClaimResults {
    fn is_valid(&self) -> bool {
        let all = [
            self.typ,
            self.audience,
            self.sender,
            self.lifetime,
            self.expiry,
            self.not_before,
            self.issued_at,
        ];
        all.iter().all(Result::is_ok)
    }
}

/// Creates a check with this result. The text of what was found is the same whether it passed or failed.
fn check(
    name: &'static str,
    result: Result<(), TokenError>,
    found: impl FnOnce() -> String,
) -> Check {
    match result {
        Ok(()) => Check::passed(name, found()),
        Err(error) => Check::failed(name, error.reason(), found()),
    }
}

fn check_header(inspection: &Inspection<'_>) -> Check {
    if inspection.format.is_err() {
        return Check::not_checked(HEADER, UNREADABLE);
    }
    check(HEADER, inspection.header, || {
        let Some(parameters) = &inspection.parameters else {
            return "a first part that is not base64url of a JSON object with a string `alg`, without repeated parameters and without `crit`".to_owned();
        };
        let optional = |name: &str, value: &Option<String>| match value {
            Some(value) => format!("{name} {}", quoted_excerpt(value)),
            None => format!("no {name}"),
        };
        let alg = quoted_excerpt(&parameters.alg);
        let (kid, typ) = (
            optional("kid", &parameters.kid),
            optional("typ", &parameters.typ),
        );
        format!("alg {alg}, {kid}, {typ}")
    })
}

fn check_algorithm(inspection: &Inspection<'_>) -> Check {
    let Some(parameters) = &inspection.parameters else {
        return Check::not_checked(ALGORITHM, UNREADABLE);
    };
    let result = parameters.algorithm().map(drop);
    let check = check(ALGORITHM, result, || quoted_excerpt(&parameters.alg));
    if result.is_ok() {
        return check;
    }
    let hint = match parameters.alg.as_str() {
        alg if alg.eq_ignore_ascii_case("none") => "the token is not signed",
        alg if alg.starts_with("HS") => {
            "it is a symmetric algorithm: anyone who can verify such a token can also make one, so none is accepted"
        }
        _ => "have the issuer sign with a supported algorithm",
    };
    let supported = Algorithm::ALL.map(Algorithm::name);
    check
        .with_expected(format!("one of {}", supported.join(", ")))
        .with_hint(hint.to_owned())
}

fn check_claims(inspection: &Inspection<'_>) -> Check {
    if inspection.format.is_err() {
        return Check::not_checked(CLAIMS, UNREADABLE);
    }
    check(CLAIMS, inspection.claims, || {
        match (inspection.claims(), inspection.claims) {
            (Some(claims), Ok(())) => {
                let subject = quoted_excerpt(&claims.subject);
                match &claims.token_id {
                    Some(id) => format!("sub {subject}, jti {}", quoted_excerpt(id)),
                    None => format!("sub {subject}"),
                }
            }
            (_, Err(error)) => error.to_string(),
            (None, Ok(())) => String::new(),
        }
    })
}

fn check_type(rules: &ClaimRules, typ: Option<&str>, result: Result<(), TokenError>) -> Check {
    let found = || typ.map_or_else(|| "no typ".to_owned(), quoted_excerpt);
    let check = check(TYPE, result, found);
    if result.is_ok() {
        return check;
    }
    let (expected, hint) = if rules.types.is_empty() {
        (
            "\"JWT\" or no typ".to_owned(),
            "if tokens of this type are meant for this service, allow it with `token_types`",
        )
    } else {
        (
            format!("one of {}", quoted_list(&rules.types)),
            "tokens of Kubernetes have no typ, so leave `token_types` unset for them",
        )
    };
    check.with_expected(expected).with_hint(hint.to_owned())
}

fn check_audience(
    rules: &ClaimRules,
    claims: &Claims<'_>,
    result: Result<(), TokenError>,
) -> Check {
    let found = claims.audiences.to_vec();
    let check = check(AUDIENCE, result, || quoted_list(&found));
    if result.is_ok() {
        return check;
    }
    let similar = found.iter().find_map(|found| {
        let mut accepted = rules.audiences.iter();
        accepted.find_map(|accepted| {
            let difference = difference(found, accepted)?;
            let (found, accepted) = (quoted_excerpt(found), quoted_excerpt(accepted));
            Some(format!(
                "{found} differs from the accepted {accepted} {difference}"
            ))
        })
    });
    let hint = if found.is_empty() {
        "the token has no audience; the client has to request one for this service".to_owned()
    } else if found
        .iter()
        .any(|found| found.starts_with(API_SERVER_AUDIENCE))
    {
        "this is the pod's token for the API server; mount a projected token with the service's audience"
            .to_owned()
    } else {
        "the client has to request a token for this service, or the service has to accept the audience".to_owned()
    };
    check
        .with_expected(format!("one of {}", quoted_list(&rules.audiences)))
        .with_hint(similar.unwrap_or(hint))
}

fn check_lifetime(rules: &ClaimRules, times: &Times, result: Result<(), TokenError>) -> Check {
    let check = check(LIFETIME, result, || match times.issued_at {
        Some(issued_at) => {
            let lifetime = times.expires_at.saturating_sub(issued_at);
            format!("{} s from iat to exp", lifetime.as_secs())
        }
        None => "no claim `iat`".to_owned(),
    });
    match (result, rules.max_lifetime) {
        (Err(_), Some(max)) => check
            .with_expected(format!("at most {} s", max.as_secs()))
            .with_hint("request a token that expires sooner, or raise `max_lifetime`".to_owned()),
        _ => check,
    }
}

/// Checks `exp`, `nbf` and `iat`. `now` is the time since the Unix epoch.
fn check_times(
    rules: &ClaimRules,
    times: &Times,
    results: &ClaimResults,
    offset: Option<ClockOffset>,
    now: Duration,
) -> [Check; 3] {
    let leeway = rules.leeway.as_secs();
    let until = |time: Duration| time.saturating_sub(now).as_secs();
    let since = |time: Duration| now.saturating_sub(time).as_secs();
    // A response is not exact to the second.
    let seconds = offset.map_or(0, ClockOffset::seconds);
    let is_behind = seconds < -1;
    let is_ahead = seconds > 1;
    let by_issuer = match offset {
        Some(offset) => {
            format!("; the issuer's clock, by its `Date` header, is {offset}")
        }
        None => String::new(),
    };
    let clocks = |is_cause: bool, other: &str| {
        if is_cause {
            "synchronize the clocks of the issuer and this machine".to_owned()
        } else {
            other.to_owned()
        }
    };
    let expiry = check(EXPIRY, results.expiry, || {
        if now < times.expires_at {
            format!("expires in {} s", until(times.expires_at))
        } else {
            let ago = since(times.expires_at);
            format!("expired {ago} s ago by this clock (leeway {leeway} s){by_issuer}")
        }
    });
    let not_before = check(NOT_BEFORE, results.not_before, || match times.not_before {
        Some(time) if now < time => {
            let ahead = until(time);
            format!("valid in {ahead} s by this clock (leeway {leeway} s){by_issuer}")
        }
        Some(time) => format!("valid since {} s", since(time)),
        None => "no claim `nbf`".to_owned(),
    });
    let issued_at = check(ISSUED_AT, results.issued_at, || match times.issued_at {
        Some(time) if now < time => {
            let ahead = until(time);
            format!("issued {ahead} s from now by this clock (leeway {leeway} s){by_issuer}")
        }
        Some(time) => format!("issued {} s ago", since(time)),
        None => "no claim `iat`".to_owned(),
    });
    let hinted = |check: Check, result: Result<(), TokenError>, hint: String| match result {
        Ok(()) => check,
        Err(_) => check.with_hint(hint),
    };
    let stale = "the sender has to use a new token: one that reads its token from a file has to read it again after each rotation";
    [
        hinted(expiry, results.expiry, clocks(is_behind, stale)),
        hinted(
            not_before,
            results.not_before,
            clocks(
                is_ahead,
                "compare the clocks of the issuer and this machine",
            ),
        ),
        hinted(
            issued_at,
            results.issued_at,
            clocks(
                is_ahead,
                "compare the clocks of the issuer and this machine",
            ),
        ),
    ]
}

fn check_allowed_algorithm(algorithm: Algorithm, current: &CurrentKeys) -> Check {
    let allowed = current.keys.algorithms;
    if allowed.contains(algorithm) {
        return Check::passed(ALLOWED_ALGORITHM, algorithm.name());
    }
    let names: Vec<_> = allowed.iter().map(Algorithm::name).collect();
    Check::failed(
        ALLOWED_ALGORITHM,
        TokenError::AlgorithmNotAllowed.reason(),
        algorithm.name(),
    )
    .with_expected(format!("one of [{}]", names.join(", ")))
    .with_hint(
        "these are the algorithms of `algorithms` or, without that setting, those that the discovery document lists".to_owned(),
    )
}

fn check_available_keys(
    issuer: &TrustedIssuer,
    current: Option<&CurrentKeys>,
    usable: usize,
) -> Check {
    let health = issuer.keys.health();
    let error = health.last_error.as_deref().map(|error| log_line(error));
    match current {
        Some(current) if usable > 0 => {
            let found = describe_keys(current, usable);
            Check::passed(
                KEYS,
                match error {
                    Some(error) => format!("{found}; the last fetch failed: {error}"),
                    None => found,
                },
            )
        }
        _ => Check::failed(
            KEYS,
            KEYS_UNAVAILABLE,
            match (error, health.last_success) {
                (Some(error), _) => error,
                (None, Some(_)) => "keys that are too old to be used".to_owned(),
                (None, None) => "no keys yet".to_owned(),
            },
        )
        .with_expected(format!("usable keys of {}", quoted_excerpt(&issuer.label))),
    }
}

/// Describes a key set, for example as `the 2 keys fetched 35 s ago from https://id.example/jwks`.
fn describe_keys(current: &CurrentKeys, usable: usize) -> String {
    let noun = if usable == 1 { "key" } else { "keys" };
    let age = Instant::now().saturating_duration_since(current.fetched);
    format!(
        "{usable} {noun} fetched {} s ago from {}",
        age.as_secs(),
        printable(&current.location)
    )
}

/// Checks the key and the signature. The set has usable keys.
fn check_signature(
    inspection: &Inspection<'_>,
    parameters: &Parameters,
    current: &CurrentKeys,
    result: Result<(), SignatureError>,
) -> [Check; 2] {
    let kid = parameters.kid.as_deref();
    let described = kid.map_or_else(
        || "no kid".to_owned(),
        |kid| format!("kid {}", quoted_excerpt(kid)),
    );
    let reason = TokenError::from(match result {
        Err(error) => error,
        Ok(()) => {
            return [
                Check::passed(KEY, described),
                Check::passed(SIGNATURE, "valid"),
            ];
        }
    })
    .reason();
    match result {
        Err(SignatureError::UnknownKey) => [
            unknown_key(parameters, &described, current, reason),
            Check::not_checked(SIGNATURE, "the key is not known"),
        ],
        Err(SignatureError::BadSignature) => {
            let is_removed = inspection.is_signature(REMOVED_SIGNATURE);
            let hint = if is_removed {
                "a front end of Google has checked the token and removed its signature; send the token in another header as well"
            } else {
                "the token was changed or is not from this issuer, or the issuer has replaced the key without a new kid"
            };
            [
                Check::passed(KEY, described),
                Check::failed(
                    SIGNATURE,
                    reason,
                    "a signature that does not verify with the key",
                )
                .with_hint(hint.to_owned()),
            ]
        }
        _ => {
            let why = "the algorithm is not allowed";
            [KEY, SIGNATURE].map(|name| Check::not_checked(name, why))
        }
    }
}

fn unknown_key(
    parameters: &Parameters,
    described: &str,
    current: &CurrentKeys,
    reason: &'static str,
) -> Check {
    let (kid, alg) = (parameters.kid.as_deref(), quoted_excerpt(&parameters.alg));
    let keys = describe_keys(current, current.keys.usable());
    let kids: Vec<_> = current.keys.kids().flatten().collect();
    let mut skipped = current.keys.skipped();
    let unusable = kid.and_then(|kid| skipped.find(|(skipped, _)| *skipped == Some(kid)));
    let (found, hint) = match (kid, unusable) {
        (Some(_), Some((_, why))) => (
            format!("{described}, a published key that cannot be used: {why}"),
            None,
        ),
        (Some(kid), None) if kids.contains(&kid) => (
            format!("{described}, a published key that is not for {alg}"),
            None,
        ),
        (Some(_), None) => (
            format!("{described}, which is not among the {keys}"),
            Some(format!(
                "the issuer publishes {}: the token is from another issuer with this name, such as a cluster that was created again, or its key was withdrawn",
                quoted_list(kids)
            )),
        ),
        (None, _) => (
            format!("{described}, and not exactly one of the {keys} is for {alg}"),
            None,
        ),
    };
    Check::failed(KEY, reason, found).with_hint(hint)
}

fn check_required_claims(issuer: &TrustedIssuer, payload: &str) -> Check {
    let unmet = issuer.required_claims.list_unmet(payload);
    if unmet.is_empty() {
        let found = match issuer.required_claims.len() {
            0 => "none is required".to_owned(),
            count => format!("all {count} are as required"),
        };
        return Check::passed(REQUIRED_CLAIMS, found);
    }
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for claim in &unmet {
        let name = quoted_excerpt(claim.claim.name());
        found.push(match claim.found {
            Some(value) => format!("{name}: {}", json_excerpt(value)),
            None => format!("no claim {name}"),
        });
        expected.push(format!(
            "{name}: {}",
            json_excerpt(&claim.claim.matcher.to_string())
        ));
    }
    let reason = TokenError::UnmetClaim.reason();
    Check::failed(REQUIRED_CLAIMS, reason, found.join(", ")).with_expected(expected.join(", "))
}

/// Returns a JSON text in one line, shortened, with everything but printable characters escaped.
fn json_excerpt(json: &str) -> String {
    printable(&crate::text::excerpt(json)).into_owned()
}

fn check_claim_conditions(issuer: &TrustedIssuer, verified: &VerifiedToken<'_>) -> Check {
    let result = issuer.claim_predicates.validate(verified.payload());
    check(CLAIM_CONDITIONS, result, || {
        match (result, issuer.claim_predicates.len()) {
            (Ok(()), 0) => "there is none".to_owned(),
            (Ok(()), count) => format!("all {count} are met"),
            (Err(TokenError::UnmetClaim), _) => {
                "claims for which a condition of `require` returned false".to_owned()
            }
            (Err(error), _) => error.to_string(),
        }
    })
}

fn unchecked_conditions() -> Check {
    // They are functions of the user, who expects verified claims.
    Check::not_checked(CLAIM_CONDITIONS, "the signature is not verified")
}

/// Returns the checks that require keys, none of which was made.
fn uncheckable_keys(why: &'static str) -> [Check; 6] {
    [
        ALLOWED_ALGORITHM,
        KEYS,
        KEY,
        SIGNATURE,
        REQUIRED_CLAIMS,
        CLAIM_CONDITIONS,
    ]
    .map(|name| Check::not_checked(name, why))
}

/// Describes how a value differs from the expected one, if they are so similar that one was probably meant to be the other.
fn difference(found: &str, expected: &str) -> Option<&'static str> {
    if found == expected {
        return None;
    }
    let slash = |text: &str| text.trim_end_matches('/').to_owned();
    let scheme = |text: &str| {
        let rest = text.strip_prefix("https://");
        let rest = rest.or_else(|| text.strip_prefix("http://"));
        rest.unwrap_or(text).to_owned()
    };
    let visible = |text: &str| {
        text.chars()
            .filter(|c| !is_invisible(*c))
            .collect::<String>()
    };
    let lower = |text: &str| text.to_lowercase();
    let equal = |normalized: &dyn Fn(&str) -> String| normalized(found) == normalized(expected);
    if equal(&slash) {
        return Some("by a trailing slash");
    }
    if equal(&lower) {
        return Some("in upper and lower case");
    }
    if equal(&scheme) {
        return Some("in the scheme");
    }
    if equal(&visible) {
        return Some("by white space or invisible characters");
    }
    if equal(&|text| slash(&scheme(&lower(&visible(text))))) {
        return Some("in more than one of: scheme, case, trailing slash, invisible characters");
    }
    let (found, expected) = (Url::parse(found).ok()?, Url::parse(expected).ok()?);
    if found.host_str() == expected.host_str() && found.host_str().is_some() {
        return Some(if found.path() == expected.path() {
            "in the port, query or fragment"
        } else {
            "in the path"
        });
    }
    let has_path = expected.path().trim_end_matches('/').len() > 1;
    (has_path && found.path() == expected.path()).then_some("in the host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_values_are_recognized() {
        for (found, expected, text) in [
            ("https://a", "https://a/", "trailing slash"),
            ("https://a.example//", "https://a.example", "trailing slash"),
            (
                "https://A.example",
                "https://a.example",
                "upper and lower case",
            ),
            ("http://a.example/b", "https://a.example/b", "scheme"),
            ("a.example", "https://a.example", "scheme"),
            (
                "https://a.example\u{200b}",
                "https://a.example",
                "invisible",
            ),
            ("http://A.example/", "https://a.example", "more than one"),
            ("https://a.example/x", "https://a.example/y", "path"),
            ("https://a.example:1/x", "https://a.example:2/x", "port"),
            (
                "https://b.example/realms/x",
                "https://a.example/realms/x",
                "host",
            ),
        ] {
            let difference = difference(found, expected).unwrap();
            assert!(
                difference.contains(text),
                "{found} {expected}: {difference}"
            );
        }
        for (found, expected) in [
            ("https://a.example", "https://a.example"),
            ("https://b.example", "https://a.example"),
            ("https://b.example/", "https://a.example/"),
            ("me", "you"),
            ("", "https://a.example"),
        ] {
            assert_eq!(difference(found, expected), None, "{found} {expected}");
        }
    }
}

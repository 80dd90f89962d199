//! Describes a response other than a success: what the server said, what was sent, and what to do.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};

use super::Response;
use super::challenge::{BearerChallenge, Challenges, bounded};
use super::claims::UnverifiedClaims;
use crate::escape::escape;

/// The difference between two clocks from which on it is reported. The resolution of `Date` is one second, and a response
/// takes a while to arrive.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// The details of a response in its headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseDetails {
    /// The challenges of `WWW-Authenticate`.
    pub challenges: Challenges,
    /// The value of `Retry-After`: a number of seconds, or a date.
    pub retry_after: Option<String>,
    /// The value of `Location`, without its query.
    pub location: Option<String>,
    /// The difference between the server's clock, by its `Date`, and this machine's.
    pub(crate) clock: Option<ClockDifference>,
}

/// The difference between the server's clock and this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockDifference {
    /// The server's clock is ahead.
    Ahead(Duration),
    /// The server's clock is behind.
    Behind(Duration),
}

impl ClockDifference {
    fn between(server: SystemTime, this: SystemTime) -> Self {
        match server.duration_since(this) {
            Ok(ahead) => Self::Ahead(ahead),
            Err(error) => Self::Behind(error.duration()),
        }
    }

    pub(crate) fn duration(self) -> Duration {
        let (Self::Ahead(duration) | Self::Behind(duration)) = self;
        duration
    }

    /// Returns the difference in words.
    pub(crate) fn describe(self) -> String {
        let seconds = self.duration().as_secs();
        match self {
            _ if self.duration() <= CLOCK_TOLERANCE => {
                "the server's clock agrees with this machine's, by its `Date`".to_owned()
            }
            Self::Ahead(_) => {
                format!("the server's clock is {seconds} s ahead of this machine's, by its `Date`")
            }
            Self::Behind(_) => {
                format!("the server's clock is {seconds} s behind this machine's, by its `Date`")
            }
        }
    }
}

impl ResponseDetails {
    pub(super) fn from_headers(headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name| {
            let value = headers.get(name).map(http::HeaderValue::as_bytes);
            value.map(|value| bounded(&String::from_utf8_lossy(value)))
        };
        let date = text(DATE).and_then(|date| httpdate::parse_http_date(&date).ok());
        let without_query =
            |url: String| url.split(['?', '#']).next().unwrap_or_default().to_owned();
        Self {
            challenges: Challenges::from_headers(headers),
            retry_after: text(RETRY_AFTER),
            location: text(LOCATION).map(without_query),
            clock: date.map(|date| ClockDifference::between(date, now)),
        }
    }
}

/// A token that was sent: its header's name, and its claims.
pub(crate) type SentToken = (http::HeaderName, UnverifiedClaims);

/// Returns the reason that the server gives for a response: its challenge, when to try again, or where it redirects to.
/// Returns `None` if it gives none. The text is escaped.
pub(crate) fn reason(response: &Response) -> Option<String> {
    let details = &response.details;
    let status = StatusCode::from_u16(response.status).ok()?;
    let mut reasons = Vec::new();
    if let Some(challenge) = &details.challenges.bearer {
        reasons.extend(challenge_reason(challenge, status));
    } else if !details.challenges.other_schemes.is_empty() {
        let schemes = details.challenges.other_schemes.join(", ");
        reasons.push(format!(
            "it requires authentication with {schemes}, not with a bearer token"
        ));
    }
    if let Some(location) = details
        .location
        .as_ref()
        .filter(|_| status.is_redirection())
    {
        reasons.push(format!("it redirects to {location}"));
    }
    if let Some(value) = &details.retry_after {
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        let unit = if is_number { " s" } else { "" };
        let preposition = if is_number { "in" } else { "after" };
        reasons.push(format!("try again {preposition} {value}{unit}"));
    }
    (!reasons.is_empty()).then(|| escape(&reasons.join("; ")).into_owned())
}

fn challenge_reason(challenge: &BearerChallenge, status: StatusCode) -> Option<String> {
    let reason = error_reason(challenge, status);
    match &challenge.scope {
        Some(scope) if status == StatusCode::FORBIDDEN => {
            let scopes = format!("required scopes: {scope}");
            Some(reason.map_or_else(|| scopes.clone(), |reason| format!("{reason}; {scopes}")))
        }
        _ => reason,
    }
}

fn error_reason(challenge: &BearerChallenge, status: StatusCode) -> Option<String> {
    match (&challenge.error_description, &challenge.error) {
        (Some(description), Some(error)) => Some(format!("{description} ({error})")),
        (Some(description), None) => Some(description.clone()),
        (None, Some(error)) => Some(match error.as_str() {
            "invalid_token" => format!("the token is not valid ({error})"),
            "insufficient_scope" => format!("the caller is not allowed ({error})"),
            "invalid_request" => format!("the request is malformed ({error})"),
            _ => error.clone(),
        }),
        // RFC 6750, section 3.1: the challenge to a request without a token has no error.
        (None, None) if status == StatusCode::UNAUTHORIZED => {
            Some("the server found no bearer token in the request".to_owned())
        }
        (None, None) => None,
    }
}

/// Returns the status with its name, such as `401 Unauthorized`.
pub(crate) fn status_line(status: u16) -> String {
    let name = StatusCode::from_u16(status).ok();
    match name.and_then(|status| status.canonical_reason()) {
        Some(name) => format!("{status} {name}"),
        None => status.to_string(),
    }
}

/// Returns the part of a body that says more than the status: an empty string if it only repeats the status.
pub(crate) fn informative_body(response: &Response) -> Cow<'_, str> {
    let body = response.body.trim();
    let name = StatusCode::from_u16(response.status).ok();
    let name = name.and_then(|status| status.canonical_reason());
    let status = response.status.to_string();
    let rest = body.strip_prefix(status.as_str()).unwrap_or(body);
    let rest = rest.trim_start_matches([' ', '-', ':']);
    if rest.is_empty() || name.is_some_and(|name| rest.eq_ignore_ascii_case(name)) {
        return Cow::Borrowed("");
    }
    escape(body)
}

/// The texts with which the guard describes a token that it rejects, and the function that says what to do.
const DESCRIPTIONS: [(&str, Describe); 8] = [
    ("the token is for another audience", audience),
    ("the token's issuer is not trusted", issuer),
    ("the token has expired", times),
    ("the token is not valid yet", times),
    ("the token's time of issue is in the future", times),
    ("the token's signature does not verify", signature),
    ("the token's key is not published by its issuer", signature),
    (
        "the token is not confirmed by its cluster's API server",
        revoked,
    ),
];

type Describe = fn(&[SentToken], &Response, SystemTime) -> String;

/// Returns what was sent and what to do about a response, or `None` if that is not known. The text is escaped.
pub(crate) fn advice(response: &Response, sent: &[SentToken], now: SystemTime) -> Option<String> {
    let bearer = response.details.challenges.bearer.as_ref();
    let description = bearer.and_then(|challenge| challenge.error_description.as_deref());
    let described = description.and_then(|description| {
        let mut known = DESCRIPTIONS.iter();
        known.find(|(text, _)| description.starts_with(text))
    });
    let text = match (described, response.status) {
        // The server has found a token, but its source has none now.
        (Some(_), _) if sent.is_empty() => {
            "the token that was sent has expired since then, or is no JWT: check its source, and that it is replaced in time"
                .to_owned()
        }
        (Some((_, describe)), _) => describe(sent, response, now),
        (None, 401) if sent.is_empty() => {
            "no token was sent: set --identity (IDENTITY) to send one".to_owned()
        }
        (None, 401) if bearer.is_some_and(|challenge| challenge.error.is_none()) => {
            "a token was sent: check whether a proxy removes the header".to_owned()
        }
        (None, 403) if sent.is_empty() => {
            "no token was sent: set --identity (IDENTITY) to send one".to_owned()
        }
        (None, 403) if bearer.is_some_and(|challenge| challenge.scope.is_some()) => {
            "request a token with these scopes from its issuer".to_owned()
        }
        (None, 403) => {
            let subjects = list(sent, |claims| claims.subject.as_deref());
            format!("the caller is {subjects}: allow it in the server's policy")
        }
        (None, 404) => "check the URL in --service-url (SERVICE_URL)".to_owned(),
        (None, 503) => {
            "the server may have no keys of the token's issuer yet, or it cannot have the token confirmed by the API server (TokenReview): its /readyz and its log say why"
                .to_owned()
        }
        (None, 300..=399) => {
            "tokens are sent only to the service's origin: set --service-url (SERVICE_URL) to where it redirects, if you trust it"
                .to_owned()
        }
        _ => return None,
    };
    Some(escape(&text).into_owned())
}

/// Lists a text claim of each token that was sent.
fn list(sent: &[SentToken], claim: impl Fn(&UnverifiedClaims) -> Option<&str>) -> String {
    let texts = sent.iter().map(|(header, claims)| {
        let value = claim(claims).map_or("none".to_owned(), |value| format!("{value:?}"));
        match sent.len() {
            1 => value,
            _ => format!("{value} (in {header})"),
        }
    });
    texts.collect::<Vec<_>>().join(" and ")
}

fn audience(sent: &[SentToken], _: &Response, _: SystemTime) -> String {
    let audiences = sent.iter().map(|(header, claims)| match sent.len() {
        1 => format!("{:?}", claims.audiences),
        _ => format!("{:?} (in {header})", claims.audiences),
    });
    let audiences = audiences.collect::<Vec<_>>().join(" and ");
    format!(
        "the token's audience is {audiences}: set the audience of the projected volume to one that the server accepts with --audience (JWT_AUDIENCE)"
    )
}

fn issuer(sent: &[SentToken], _: &Response, _: SystemTime) -> String {
    let issuers = list(sent, |claims| claims.issuer.as_deref());
    format!(
        "the token's issuer is {issuers}: the server's --issuer (ID_ISSUER) must equal it exactly, including a slash at the end"
    )
}

fn times(sent: &[SentToken], response: &Response, now: SystemTime) -> String {
    let mut parts = Vec::new();
    for (_, claims) in sent {
        parts.extend(claims.issued_at.map(|time| issued(time, now)));
        parts.extend(claims.expires_at.map(|time| expires(time, now)));
    }
    if parts.is_empty() {
        parts.push("has neither a time of issue nor an expiry".to_owned());
    }
    let by_this_clock = format!("by this machine's clock, it {}", parts.join(" and "));
    match response.details.clock {
        Some(clock) if clock.duration() > CLOCK_TOLERANCE => {
            format!(
                "{by_this_clock}; {}: correct the clock that is wrong (NTP)",
                clock.describe()
            )
        }
        Some(clock) => format!(
            "{by_this_clock}; {}: check the issuer's clock, and that the token is replaced in time",
            clock.describe()
        ),
        None => format!("{by_this_clock}: compare the clocks of client, server and issuer"),
    }
}

/// Describes a token's time of issue, such as `was issued 10 s ago`.
pub(crate) fn issued(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Ok(ahead) if ahead.as_secs() > 0 => {
            format!("is issued {} s in the future", ahead.as_secs())
        }
        Ok(_) => "was issued just now".to_owned(),
        Err(error) => format!("was issued {} s ago", error.duration().as_secs()),
    }
}

/// Describes a token's expiry, such as `expires in 10 s`.
pub(crate) fn expires(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Ok(left) if !left.is_zero() => format!("expires in {} s", left.as_secs()),
        _ => {
            let since = now.duration_since(time).unwrap_or_default();
            format!("expired {} s ago", since.as_secs())
        }
    }
}

fn signature(sent: &[SentToken], _: &Response, _: SystemTime) -> String {
    let issuers = list(sent, |claims| claims.issuer.as_deref());
    format!(
        "the token's issuer is {issuers}: if a gate such as Cloud Run's is in front of the server, set --identity both (IDENTITY), because it removes the signature; otherwise the token may be of another cluster with the same issuer"
    )
}

fn revoked(sent: &[SentToken], _: &Response, _: SystemTime) -> String {
    let subjects = list(sent, |claims| claims.subject.as_deref());
    format!(
        "the token of {subjects} is signed and has not expired, but the pod, the service account or the node that it is bound to was deleted, or the API server is that of another cluster: use the token of a pod that exists; the server's log contains the API server's reason"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = http::HeaderName::try_from(*name).unwrap();
            map.append(name, http::HeaderValue::try_from(*value).unwrap());
        }
        Response {
            status,
            body: body.to_owned(),
            is_truncated: false,
            details: ResponseDetails::from_headers(&map, NOW + Duration::from_secs(1000)),
        }
    }

    fn rejected(challenge: &str) -> Response {
        let challenge = format!("Bearer realm=\"a\"{challenge}");
        response(
            401,
            &[("www-authenticate", &challenge)],
            "401 - Unauthorized",
        )
    }

    fn sent() -> Vec<SentToken> {
        let claims = UnverifiedClaims {
            issuer: Some("https://issuer.example/".to_owned()),
            subject: Some("system:serviceaccount:a:b".to_owned()),
            audiences: vec!["https://b.example".to_owned()],
            issued_at: Some(NOW + Duration::from_secs(900)),
            expires_at: Some(NOW + Duration::from_secs(1500)),
            ..UnverifiedClaims::default()
        };
        vec![(http::header::AUTHORIZATION, claims)]
    }

    #[test]
    fn the_reason_is_that_of_the_challenge() {
        for (challenge, expected) in [
            ("", "the server found no bearer token in the request"),
            (
                ", error=invalid_token, error_description=\"the token has expired\"",
                "the token has expired (invalid_token)",
            ),
            (
                ", error=invalid_token",
                "the token is not valid (invalid_token)",
            ),
            (", error=other", "other"),
            (", error_description=\"a\u{202e}b\"", "a\\u{202e}b"),
        ] {
            assert_eq!(reason(&rejected(challenge)).as_deref(), Some(expected));
        }
        let basic = response(401, &[("www-authenticate", "Basic realm=x")], "");
        assert_eq!(
            reason(&basic).unwrap(),
            "it requires authentication with Basic, not with a bearer token"
        );
        assert_eq!(reason(&response(403, &[], "")), None);
    }

    #[test]
    fn a_missing_scope_is_named() {
        let challenge = "Bearer realm=\"r\", error=\"insufficient_scope\", error_description=\"the token lacks a required scope\", scope=\"a b\"";
        let denied = response(403, &[("www-authenticate", challenge)], "");
        assert_eq!(
            reason(&denied).as_deref(),
            Some("the token lacks a required scope (insufficient_scope); required scopes: a b")
        );
        assert_eq!(
            advice(&denied, &sent(), NOW).as_deref(),
            Some("request a token with these scopes from its issuer")
        );
    }

    #[test]
    fn retry_after_and_the_target_of_a_redirect_are_part_of_the_reason() {
        let busy = response(503, &[("retry-after", "7")], "");
        assert_eq!(reason(&busy).unwrap(), "try again in 7 s");
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        let busy = response(503, &[("retry-after", date)], "");
        assert_eq!(reason(&busy).unwrap(), format!("try again after {date}"));
        let moved = response(
            302,
            &[("location", "https://b.example/login?token=secret")],
            "",
        );
        assert_eq!(
            reason(&moved).unwrap(),
            "it redirects to https://b.example/login"
        );
    }

    #[test]
    fn a_body_that_repeats_the_status_is_omitted() {
        for (body, expected) in [
            ("401 - Unauthorized", ""),
            ("Unauthorized\n", ""),
            ("401", ""),
            ("", ""),
            (
                "401 - Unauthorized by policy",
                "401 - Unauthorized by policy",
            ),
            ("a\nb", "a\\nb"),
        ] {
            assert_eq!(informative_body(&response(401, &[], body)), expected);
        }
    }

    #[test]
    fn the_advice_names_what_was_sent_and_the_setting_to_change() {
        let describe = |description: &str| {
            let challenge = format!(", error=invalid_token, error_description=\"{description}\"");
            advice(
                &rejected(&challenge),
                &sent(),
                NOW + Duration::from_secs(1000),
            )
            .unwrap()
        };
        assert_eq!(
            describe("the token is for another audience"),
            "the token's audience is [\"https://b.example\"]: set the audience of the projected volume to one that the server accepts with --audience (JWT_AUDIENCE)"
        );
        assert_eq!(
            describe("the token's issuer is not trusted"),
            "the token's issuer is \"https://issuer.example/\": the server's --issuer (ID_ISSUER) must equal it exactly, including a slash at the end"
        );
        assert!(describe("the token's signature does not verify").contains("--identity both"));
        assert!(
            describe("the token is not confirmed by its cluster's API server").starts_with(
                "the token of \"system:serviceaccount:a:b\" is signed and has not expired, but the pod, the service account or the node that it is bound to was deleted"
            )
        );
        let unavailable = response(503, &[("retry-after", "5")], "");
        assert!(advice(&unavailable, &sent(), NOW).unwrap().contains(
            "confirmed by the API server (TokenReview): its /readyz and its log say why"
        ));
        let forbidden = response(403, &[], "");
        assert_eq!(
            advice(&forbidden, &sent(), NOW).unwrap(),
            "the caller is \"system:serviceaccount:a:b\": allow it in the server's policy"
        );
        assert!(
            advice(&rejected(""), &[], NOW)
                .unwrap()
                .contains("--identity")
        );
        assert!(
            advice(&rejected(""), &sent(), NOW)
                .unwrap()
                .contains("a proxy")
        );
        assert_eq!(advice(&response(418, &[], ""), &sent(), NOW), None);
    }

    #[test]
    fn a_difference_of_clocks_is_reported_with_the_tokens_times() {
        let now = NOW + Duration::from_secs(1000);
        let challenge =
            "Bearer error=invalid_token, error_description=\"the token is not valid yet\"";
        let date = |seconds| httpdate::fmt_http_date(NOW + Duration::from_secs(seconds));
        for (server, expected) in [
            (
                700,
                "the server's clock is 300 s behind this machine's, by its `Date`: correct the clock that is wrong (NTP)",
            ),
            (
                1300,
                "the server's clock is 300 s ahead of this machine's, by its `Date`: correct the clock that is wrong (NTP)",
            ),
            (
                998,
                "the server's clock agrees with this machine's, by its `Date`: check the issuer's clock, and that the token is replaced in time",
            ),
        ] {
            let headers = [("www-authenticate", challenge), ("date", &date(server))];
            let text = advice(&response(401, &headers, ""), &sent(), now).unwrap();
            assert_eq!(
                text,
                format!(
                    "by this machine's clock, it was issued 100 s ago and expires in 500 s; {expected}"
                )
            );
        }
    }

    #[test]
    fn each_advice_is_complete_without_a_current_token_and_without_claims() {
        let without_claims = [(http::header::AUTHORIZATION, UnverifiedClaims::default())];
        for (description, _) in DESCRIPTIONS {
            let challenge =
                format!("Bearer error=invalid_token, error_description=\"{description}\"");
            let response = response(401, &[("www-authenticate", &challenge)], "");
            assert_eq!(
                advice(&response, &[], NOW).unwrap(),
                "the token that was sent has expired since then, or is no JWT: check its source, and that it is replaced in time"
            );
            let text = advice(&response, &without_claims, NOW).unwrap();
            let is_complete =
                !text.contains("it :") && !text.contains("it ;") && !text.contains("is :");
            assert!(is_complete, "{description}: {text}");
        }
    }

    #[test]
    fn with_two_tokens_each_is_named_with_its_header() {
        let mut both = sent();
        both.push((
            crate::X_SERVERLESS_AUTHORIZATION,
            UnverifiedClaims::default(),
        ));
        let text = advice(&response(403, &[], ""), &both, NOW).unwrap();
        assert_eq!(
            text,
            "the caller is \"system:serviceaccount:a:b\" (in authorization) and none (in x-serverless-authorization): allow it in the server's policy"
        );
    }

    #[test]
    fn each_description_is_one_of_the_guard() {
        let sources = crate::test_support::library_sources();
        for (text, _) in DESCRIPTIONS {
            let is_contained = sources.iter().any(|source| source.contains(text));
            assert!(is_contained, "{text:?} is in no library");
        }
    }
}

//! Checks the claims of a token, as far as its sender can see them, without verifying its signature.

use std::time::{Duration, SystemTime};

use super::report::Check;
use crate::client::claims::UnverifiedClaims;
use crate::client::rejection::{expires, issued};
use crate::client::settings::Service;

/// The part of its lifetime after which a token should have been replaced.
const RENEWAL: f64 = 0.8;
/// The issuer of the tokens in Secrets, which never expire.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How far in the future a token may be issued or become valid: the tolerance of the guard.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Where a token is from, which determines its audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platform {
    /// A volume, whose manifest sets the audience.
    Kubernetes,
    /// Google, which was asked for the audience of the service.
    Google,
    /// The source that the environment has. Some of these choose the audience themselves.
    Environment,
}

/// Checks the claims.
pub(super) fn check(
    claims: &UnverifiedClaims,
    platform: Platform,
    service: &Service,
    now: SystemTime,
) -> Vec<Check> {
    vec![
        check_issuer(claims),
        check_subject(claims),
        check_audience(claims, platform, service),
        check_times(claims, now),
    ]
}

fn check_issuer(claims: &UnverifiedClaims) -> Check {
    match claims.issuer.as_deref() {
        Some(LEGACY_ISSUER) => Check::failed("issuer", format!("{LEGACY_ISSUER:?}: a token of a Secret, which never expires"))
            .expected("a projected token, whose issuer is a URL")
            .advice("add a projected volume with a serviceAccountToken to the pod, and set --token-path (TOKEN_PATH) to its file"),
        Some(issuer) => {
            let algorithm = claims.algorithm.as_deref().unwrap_or("none");
            Check::passed("issuer", format!("{issuer:?}, signed with {algorithm:?}; the server's --issuer (ID_ISSUER) must equal it exactly"))
        }
        None => Check::failed("issuer", "the token has no issuer (iss)")
            .expected("the URL of the issuer")
            .advice("set --token-path (TOKEN_PATH) to the file of a projected service account token"),
    }
}

fn check_subject(claims: &UnverifiedClaims) -> Check {
    match claims.subject.as_deref() {
        Some(subject) => Check::passed(
            "subject",
            format!("{subject:?}; the server's policy must allow it"),
        ),
        None => Check::failed("subject", "the token has no subject (sub)")
            .expected("the name of the service account")
            .advice(
                "set --token-path (TOKEN_PATH) to the file of a projected service account token",
            ),
    }
}

fn check_audience(claims: &UnverifiedClaims, platform: Platform, service: &Service) -> Check {
    let audiences = &claims.audiences;
    let found = format!("{audiences:?}");
    let includes = |audience: &str| audiences.iter().any(|found| found == audience);
    if audiences.is_empty() {
        return Check::failed("audience", "the token has no audience (aud)")
            .expected("the audience of the service")
            .advice("set audience of the serviceAccountToken in the projected volume");
    }
    if platform == Platform::Google {
        return if includes(&service.audience) {
            Check::passed("audience", found)
        } else {
            Check::failed("audience", found)
                .expected(format!("{:?}", service.audience))
                .advice("set the audience with URL=AUDIENCE in --service-url (SERVICE_URL)")
        };
    }
    let is_for_api_server = |audience: &String| {
        Some(audience) == claims.issuer.as_ref()
            || audience.starts_with("https://kubernetes.default.svc")
    };
    if audiences.iter().any(is_for_api_server) {
        return Check::failed("audience", format!("{found}, which is the cluster's API server"))
            .expected("an audience of the service alone: a server that receives this token can use it at the API server")
            .advice("mount a projected volume with a separate audience, and set --token-path (TOKEN_PATH) to its file");
    }
    let wanted = [&service.audience, &service.url];
    if wanted.iter().any(|audience| includes(audience)) {
        return Check::passed("audience", found);
    }
    let similar = audiences.iter().find(|found| {
        wanted
            .iter()
            .any(|wanted| normalized(found) == normalized(wanted))
    });
    match similar {
        Some(_) => Check::warning("audience", format!("{found}, which differs from the service's URL only in case, in http and https, or in a slash at the end"))
            .expected(format!("{:?}, if the server's audience is its URL", service.audience))
            .advice("compare with --audience (JWT_AUDIENCE) of the server: audiences must be equal exactly"),
        None => Check::passed(
            "audience",
            format!("{found}, which is not the service's URL; it must be in the server's --audience (JWT_AUDIENCE)"),
        ),
    }
}

/// Returns an audience without the differences that are often overlooked.
fn normalized(audience: &str) -> String {
    let audience = audience.trim().to_lowercase();
    let without_scheme = audience
        .strip_prefix("https://")
        .or(audience.strip_prefix("http://"));
    let rest = without_scheme.unwrap_or(&audience);
    rest.trim_end_matches('/').to_owned()
}

fn check_times(claims: &UnverifiedClaims, now: SystemTime) -> Check {
    let ahead = |time: Option<SystemTime>| time.and_then(|time| time.duration_since(now).ok());
    let Some(expiry) = claims.expires_at else {
        return Check::failed("expiry", "the token has no expiry (exp)")
            .expected("a token that expires within a day")
            .advice("use a projected token instead of one from a Secret");
    };
    let mut found = vec![expires(expiry, now)];
    found.extend(claims.issued_at.map(|time| issued(time, now)));
    let lifetime = claims.lifetime();
    found.extend(lifetime.map(|lifetime| format!("has a lifetime of {} s", lifetime.as_secs())));
    let part = lifetime
        .zip(claims.issued_at)
        .and_then(|(lifetime, issued)| {
            let age = now.duration_since(issued).ok()?;
            (!lifetime.is_zero()).then(|| age.as_secs_f64() / lifetime.as_secs_f64())
        });
    found.extend(part.map(|part| format!("{:.0} % of it have passed", part * 100.0)));
    let found = found.join(", ");
    if expiry <= now {
        return Check::failed("expiry", found)
            .expected("a token that has not expired, by this machine's clock")
            .advice("check this machine's clock, and for a projected volume the kubelet: `kubectl describe pod` lists its errors");
    }
    let is_early = |time| ahead(time).is_some_and(|ahead| ahead > CLOCK_TOLERANCE);
    if is_early(claims.issued_at) || is_early(claims.not_before) {
        return Check::failed("expiry", format!("{found}: it is not valid yet"))
            .expected("a token that was issued in the past, by this machine's clock")
            .advice("this machine's clock is behind that of the issuer: synchronize it (NTP)");
    }
    let is_stale = claims.warn_after.is_some_and(|time| time <= now);
    if is_stale || part.is_some_and(|part| part > RENEWAL) {
        return Check::warning("expiry", format!("{found}: the next token is overdue"))
            .expected("a new token after 80 % of the lifetime, which the kubelet writes up to a minute late")
            .advice("if this persists, see the events in `kubectl describe pod`, and whether the kubelet reaches the API server");
    }
    Check::passed("expiry", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::check::report::Status;

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claims() -> UnverifiedClaims {
        UnverifiedClaims {
            issuer: Some("https://issuer.example".to_owned()),
            subject: Some("system:serviceaccount:a:b".to_owned()),
            audiences: vec!["https://a.example".to_owned()],
            issued_at: Some(time(1000)),
            expires_at: Some(time(1600)),
            ..UnverifiedClaims::default()
        }
    }

    fn service() -> Service {
        "https://a.example".parse().unwrap()
    }

    fn statuses(claims: &UnverifiedClaims, platform: Platform, now: u64) -> Vec<Status> {
        let checks = check(claims, platform, &service(), time(now));
        checks.iter().map(|check| check.status).collect()
    }

    #[test]
    fn a_valid_token_passes_each_check() {
        let all_passed = [Status::Passed; 4];
        assert_eq!(statuses(&claims(), Platform::Kubernetes, 1100), all_passed);
        assert_eq!(statuses(&claims(), Platform::Google, 1100), all_passed);
    }

    #[test]
    fn missing_claims_and_tokens_of_secrets_fail() {
        let all_failed = [Status::Failed; 4];
        let none = UnverifiedClaims::default();
        assert_eq!(statuses(&none, Platform::Kubernetes, 1100), all_failed);
        let legacy = UnverifiedClaims {
            issuer: Some(LEGACY_ISSUER.to_owned()),
            ..claims()
        };
        assert!(check_issuer(&legacy).is_failed());
    }

    #[test]
    fn the_audience_of_the_api_server_fails_and_a_similar_one_is_a_warning() {
        for (audience, kubernetes, google) in [
            ("https://a.example", Status::Passed, Status::Passed),
            ("https://a.example/", Status::Warning, Status::Failed),
            ("http://A.example", Status::Warning, Status::Failed),
            ("a.example", Status::Warning, Status::Failed),
            ("https://b.example", Status::Passed, Status::Failed),
            ("https://issuer.example", Status::Failed, Status::Failed),
            (
                "https://kubernetes.default.svc.cluster.local",
                Status::Failed,
                Status::Failed,
            ),
        ] {
            let claims = UnverifiedClaims {
                audiences: vec![audience.to_owned()],
                ..claims()
            };
            let status = |platform| check_audience(&claims, platform, &service()).status;
            assert_eq!(status(Platform::Kubernetes), kubernetes, "{audience}");
            assert_eq!(status(Platform::Google), google, "{audience}");
        }
    }

    #[test]
    fn a_token_is_overdue_after_80_percent_of_its_lifetime_or_when_kubernetes_warns() {
        for (now, status, text) in [
            (900, Status::Failed, "is issued 100 s in the future"),
            (960, Status::Passed, "is issued 40 s in the future"),
            (1480, Status::Passed, "80 % of it have passed"),
            (
                1490,
                Status::Warning,
                "expires in 110 s, was issued 490 s ago, has a lifetime of 600 s, 82 % of it have passed: the next token is overdue",
            ),
            (1600, Status::Failed, "expired 0 s ago"),
            (1718, Status::Failed, "expired 118 s ago"),
        ] {
            let check = check_times(&claims(), time(now));
            assert_eq!(check.status, status, "{now}: {check:?}");
            assert!(check.found.contains(text), "{now}: {check:?}");
        }
        let stale = UnverifiedClaims {
            warn_after: Some(time(1050)),
            ..claims()
        };
        assert_eq!(check_times(&stale, time(1100)).status, Status::Warning);
    }
}

//! Decides which URLs of a configuration may be used.
//!
//! The subject token is sent to `token_url`, and the federated token to `service_account_impersonation_url`. Anyone who can
//! write the configuration could otherwise choose who receives them, or let this process send requests into its network.
//! Google [advises] to check the URLs of configurations that come from elsewhere; here that is the default.
//!
//! [advises]: https://cloud.google.com/docs/authentication/external/externally-sourced-credentials

use reqwest::Url;

use super::config::quoted;
use crate::error::Error;
use crate::origins::{Origin, OriginRef, PlainHttp};
use crate::source::http::Endpoint;

/// The universe of Google Cloud itself.
pub(super) const DEFAULT_UNIVERSE: &str = "googleapis.com";

/// A service of Google that tokens are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    SecurityTokens,
    IamCredentials,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::SecurityTokens => "sts",
            Self::IamCredentials => "iamcredentials",
        }
    }
}

/// The URLs that may be used: those of Google's services, and those that the program has allowed.
#[derive(Debug, Clone)]
pub(super) struct TrustedUrls {
    /// The domains of Google's services.
    universes: Vec<String>,
    origins: Vec<Origin>,
}

impl Default for TrustedUrls {
    fn default() -> Self {
        Self {
            universes: vec![DEFAULT_UNIVERSE.to_owned()],
            origins: Vec::new(),
        }
    }
}

impl TrustedUrls {
    /// Allows the URLs of an origin.
    pub(super) fn allow_origin(&mut self, origin: &str) -> Result<(), Error> {
        let parsed = Origin::parse(origin, PlainHttp::Allowed);
        self.origins
            .push(parsed.map_err(|reason| Error::invalid_origin(origin, reason))?);
        Ok(())
    }

    /// Allows the services of another universe.
    pub(super) fn allow_universe(&mut self, domain: &str) {
        self.universes.push(domain.to_owned());
    }

    /// Returns whether a universe is Google Cloud's, or was allowed.
    pub(super) fn has_universe(&self, domain: &str) -> bool {
        self.universes.iter().any(|known| known == domain)
    }

    /// Checks the URL of one of Google's services. The error is the end of a sentence about the configuration.
    pub(super) fn check_service(
        &self,
        member: &str,
        url: &str,
        service: Service,
    ) -> Result<Endpoint, String> {
        let url = parse(member, url)?;
        if url.query().is_some() {
            return Err(format!("its `{member}` has a query; remove it"));
        }
        if self.is_allowed(&url) {
            return endpoint(member, &url);
        }
        let is_google = url.scheme() == "https"
            && url.port().is_none()
            && url.domain().is_some_and(|domain| {
                self.universes
                    .iter()
                    .any(|universe| is_service_host(domain, service, universe))
            });
        if is_google {
            return endpoint(member, &url);
        }
        let name = service.name();
        Err(format!(
            "its `{member}` is at {}, which is not a server of Google (`https://{name}.{}`), so tokens are not sent there; \
             correct it, or if this server is meant, allow it with `allow_origin`",
            quoted(&origin(&url)),
            self.universes.join(&format!("`, `https://{name}.")),
        ))
    }

    /// Checks the URL of a subject token, which is never one of Google's services. The error is the end of a sentence about
    /// the configuration.
    pub(super) fn check_source(&self, url: &str) -> Result<Endpoint, String> {
        let member = "credential_source.url";
        let url = parse(member, url)?;
        if self.is_allowed(&url) {
            return endpoint(member, &url);
        }
        Err(format!(
            "its `{member}` is at {}, and anyone who can write the configuration could let this process send requests to any \
             server; use `credential_source.file`, or if this server is meant, allow it with `allow_origin`",
            quoted(&origin(&url)),
        ))
    }

    fn is_allowed(&self, url: &Url) -> bool {
        OriginRef::from_url(url)
            .is_some_and(|origin| self.origins.iter().any(|known| known.matches(origin)))
    }
}

/// Parses a URL without user information and fragment.
fn parse(member: &str, url: &str) -> Result<Url, String> {
    // The parser removes these characters, so that the URL in the file would not be the one that is used.
    if url
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
    {
        return Err(format!(
            "its `{member}` contains white space, control characters or backslashes; remove them"
        ));
    }
    let url = Url::parse(url).map_err(|_| format!("its `{member}` is not a URL"))?;
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return Err(format!("its `{member}` is not an https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "its `{member}` has user information before the host; remove it"
        ));
    }
    if url.fragment().is_some() {
        return Err(format!("its `{member}` has a fragment; remove it"));
    }
    Ok(url)
}

/// Returns a URL that was checked as an endpoint.
fn endpoint(member: &str, url: &Url) -> Result<Endpoint, String> {
    Endpoint::parse(url.as_str(), PlainHttp::Allowed)
        .map_err(|error| format!("its `{member}` cannot be used: {error}"))
}

/// Returns the origin of a URL, without its path and query, which may contain secrets.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Returns whether a host, in lower case, is that of a service in a universe. Each of these may end in `.mtls`:
///
/// - `sts`
/// - `sts.REGION.rep`, a regional endpoint
/// - `REGION.sts`, `sts.REGION` and `REGION-sts`, older regional endpoints
/// - `sts-NAME.p`, Private Service Connect
fn is_service_host(host: &str, service: Service, universe: &str) -> bool {
    let Some(prefix) = host
        .strip_suffix(universe)
        .and_then(|prefix| prefix.strip_suffix('.'))
    else {
        return false;
    };
    let name = service.name();
    let labels: Vec<&str> = prefix.split('.').collect();
    if !labels.iter().all(|label| is_label(label)) {
        return false;
    }
    let labels = match labels.as_slice() {
        [rest @ .., "mtls"] if !rest.is_empty() => rest,
        labels => labels,
    };
    match labels {
        [only] => {
            *only == name
                || only
                    .strip_suffix(name)
                    .is_some_and(|region| region.len() > 1 && region.ends_with('-'))
        }
        [first, "p"] => first
            .strip_prefix(name)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('-')),
        [_, second] if *second == name => true,
        [first, region] => *first == name && is_region(region),
        [first, _, "rep"] => *first == name,
        _ => false,
    }
}

/// Returns whether a label can be a region, such as `us-east1`. `sts.storage.googleapis.com` is a bucket of Cloud Storage, which
/// anyone could own.
fn is_region(label: &str) -> bool {
    label == "global" || label.contains('-') && label.bytes().any(|byte| byte.is_ascii_digit())
}

/// Returns whether a text is a label of a host name: letters, digits and inner hyphens.
fn is_label(text: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_valid) && !text.starts_with('-') && !text.ends_with('-')
}

/// Returns whether a text can be the domain of a universe: at least two labels.
pub(super) fn is_universe(domain: &str) -> bool {
    domain.contains('.') && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(urls: &TrustedUrls, service: Service, url: &str) -> Result<Endpoint, String> {
        urls.check_service("token_url", url, service)
    }

    #[test]
    fn the_hosts_of_googles_services_are_accepted() {
        let urls = TrustedUrls::default();
        for host in [
            "sts.googleapis.com",
            "STS.GoogleAPIs.com",
            "sts.googleapis.com:443",
            "sts.mtls.googleapis.com",
            "sts.us-central1.rep.googleapis.com",
            "sts.us-central1.rep.mtls.googleapis.com",
            "us-east1.sts.googleapis.com",
            "us-east1.sts.mtls.googleapis.com",
            "sts.us-east1.googleapis.com",
            "sts.us-east1.mtls.googleapis.com",
            "us-east1-sts.googleapis.com",
            "us-east1-sts.mtls.googleapis.com",
            "sts-endpoint.p.googleapis.com",
            "sts-endpoint.p.mtls.googleapis.com",
        ] {
            let url = format!("https://{host}/v1/token");
            assert!(check(&urls, Service::SecurityTokens, &url).is_ok(), "{url}");
            assert!(
                check(&urls, Service::IamCredentials, &url).is_err(),
                "{url}"
            );
            let url = url.to_lowercase().replace("sts", "iamcredentials");
            assert!(check(&urls, Service::IamCredentials, &url).is_ok(), "{url}");
        }
    }

    #[test]
    fn other_hosts_and_ambiguous_urls_are_rejected() {
        let urls = TrustedUrls::default();
        for url in [
            // Other schemes.
            "http://sts.googleapis.com/v1/token",
            "ftp://sts.googleapis.com/v1/token",
            "file:///v1/token",
            "//sts.googleapis.com/v1/token",
            "sts.googleapis.com/v1/token",
            "",
            // User information, and hosts that look like it.
            "https://sts.googleapis.com@attacker.example/v1/token",
            "https://user@sts.googleapis.com/v1/token",
            "https://user:password@sts.googleapis.com/v1/token",
            "https://:@attacker.example/v1/token",
            "https://attacker.example\\@sts.googleapis.com/v1/token",
            "https://sts.googleapis.com\\.attacker.example/v1/token",
            // Ports.
            "https://sts.googleapis.com:8443/v1/token",
            "https://sts.googleapis.com:80/v1/token",
            // Trailing dots, empty labels and hyphens at the wrong place.
            "https://sts.googleapis.com./v1/token",
            "https://sts..googleapis.com/v1/token",
            "https://.sts.googleapis.com/v1/token",
            "https://-sts.googleapis.com/v1/token",
            "https://sts-.p.googleapis.com/v1/token",
            "https://p.googleapis.com/v1/token",
            // Domains that contain Google's.
            "https://sts.googleapis.com.attacker.example/v1/token",
            "https://attacker.example/sts.googleapis.com/v1/token",
            "https://attacker.example?sts.googleapis.com",
            "https://attacker.example#sts.googleapis.com",
            "https://stsgoogleapis.com/v1/token",
            "https://sts.googleapis.com-attacker.example/v1/token",
            "https://sts.attackergoogleapis.com/v1/token",
            "https://sts.googleapis.co/v1/token",
            "https://sts.googleapis.comm/v1/token",
            "https://sts-googleapis.com/v1/token",
            // Look-alike characters.
            "https://sts.g\u{43e}\u{43e}gleapis.com/v1/token",
            "https://sts\u{2024}attacker.example/v1/token",
            "https://\u{455}ts.googleapis.com/v1/token",
            // Other services and hosts of Google.
            "https://googleapis.com/v1/token",
            "https://storage.googleapis.com/bucket/token",
            "https://storage-sts.storage.googleapis.com/v1/token",
            "https://sts.storage.googleapis.com/v1/token",
            "https://sts.commondatastorage.googleapis.com/v1/token",
            "https://sts.p.googleapis.com/v1/token",
            "https://sts.rep.googleapis.com/v1/token",
            "https://a.b.sts.googleapis.com/v1/token",
            "https://sts.a.b.googleapis.com/v1/token",
            "https://xsts.googleapis.com/v1/token",
            "https://stsx.googleapis.com/v1/token",
            "https://sts.google.com/v1/token",
            "https://metadata.google.internal/v1/token",
            // Addresses.
            "https://169.254.169.254/v1/token",
            "https://[::1]/v1/token",
            "https://127.0.0.1/v1/token",
            "https://0x7f000001/v1/token",
            // Characters that a parser removes or converts.
            " https://sts.googleapis.com/v1/token",
            "https://sts.googleapis.com/v1/token\n",
            "https://sts.googleapis.com\t.attacker.example/v1/token",
            "https:\\\\sts.googleapis.com/v1/token",
            // Queries and fragments.
            "https://sts.googleapis.com/v1/token?alt=media",
            "https://sts.googleapis.com/v1/token#a",
        ] {
            let error = check(&urls, Service::SecurityTokens, url);
            let error = error.expect_err(url);
            assert!(error.starts_with("its `token_url` "), "{error}");
            assert!(!error.contains("password"), "{error}");
        }
    }

    #[test]
    fn another_universe_is_accepted_only_if_the_program_allows_it() {
        let mut urls = TrustedUrls::default();
        let url = "https://sts.apis.example/v1/token";
        assert!(check(&urls, Service::SecurityTokens, url).is_err());
        urls.allow_universe("apis.example");
        assert!(check(&urls, Service::SecurityTokens, url).is_ok());
        let other = "https://sts.other.example/v1/token";
        let error = check(&urls, Service::SecurityTokens, other).unwrap_err();
        assert!(
            error.contains("`https://sts.googleapis.com`, `https://sts.apis.example`"),
            "{error}"
        );
        for (domain, expected) in [
            ("apis.example", true),
            ("example", false),
            ("", false),
            (".", false),
            ("apis.example.", false),
            (".apis.example", false),
            ("apis.example/x", false),
            ("Apis.example", false),
        ] {
            assert_eq!(is_universe(domain), expected, "{domain}");
        }
    }

    #[test]
    fn an_allowed_origin_is_exactly_one_scheme_host_and_port() {
        let mut urls = TrustedUrls::default();
        urls.allow_origin("http://127.0.0.1:8080").unwrap();
        let check = |url| check(&urls, Service::SecurityTokens, url).is_ok();
        assert!(check("http://127.0.0.1:8080/v1/token"));
        assert!(!check("http://127.0.0.1:8081/v1/token"));
        assert!(!check("https://127.0.0.1:8080/v1/token"));
        assert!(!check("http://127.0.0.1/v1/token"));
        assert!(!check("http://localhost:8080/v1/token"));
        assert!(!check("http://user@127.0.0.1:8080/v1/token"));
        assert!(
            urls.check_source("http://127.0.0.1:8080/token?audience=a")
                .is_ok()
        );
        assert!(urls.check_source("http://169.254.169.254/token").is_err());
        assert!(
            urls.check_source("https://sts.googleapis.com/token")
                .is_err()
        );
        for origin in [
            "http://127.0.0.1:8080/path",
            "127.0.0.1:8080",
            "https://*.example",
            "",
        ] {
            assert!(urls.clone().allow_origin(origin).is_err(), "{origin}");
        }
    }
}

//! The Kubernetes cluster that this process runs in, as an issuer.

use std::path::PathBuf;

use url::Url;

use super::Issuer;
use crate::build_error::BuildError;
use crate::identity::Platform;
use crate::keys::location::KeyLocation;
use crate::keys::sources::ApiServer;

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Where the kubelet mounts the token of the pod's service account, next to the CA.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

impl Issuer {
    /// Creates the settings of the Kubernetes cluster that this process runs in. Only the audience has to be configured.
    ///
    /// The keys are fetched from the API server, at `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, with the CA and
    /// the token that are mounted into the pod. Both files are read again for each fetch, and the token is sent nowhere else.
    /// These fetches follow no redirects and use no proxy, and never use the client set with
    /// [`http_client`](crate::OidcGuardBuilder::http_client).
    ///
    /// Two values of `iss` are accepted: the `issuer` in the API server's discovery document and, unless it is a legacy token,
    /// the `iss` of the pod's own token. Both are read again with the keys, so the cluster may change its issuer: tokens with
    /// the new value are accepted as soon as the discovery document contains it, and tokens with the old value for as long as
    /// the pod's own token has it. [`also_known_as`](Self::also_known_as) accepts the old value for longer.
    ///
    /// The guard does not build with an audience that is the API server's own, because every pod has a token for it; see
    /// [`dangerous_accept_api_server_audience`](Self::dangerous_accept_api_server_audience).
    ///
    /// # Errors
    ///
    /// [`BuildError::NotInCluster`] if the two variables do not contain an address. Whether the token and the CA can be read is
    /// checked when the guard is built.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer};
    /// # fn example() -> Result<(), BuildError> {
    /// let issuer = Issuer::in_cluster()?.audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_cluster() -> Result<Self, BuildError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable(HOST), variable(PORT)) {
            (Some(host), Some(port)) => Self::in_cluster_at(&host, &port),
            _ => Err(BuildError::NotInCluster),
        }
    }

    /// Creates the settings of [`in_cluster`](Self::in_cluster) with this address of the API server, for a process that is
    /// started without the two environment variables, and for tests.
    ///
    /// `host` is a name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotInCluster`] if `host` and `port` do not form an address.
    ///
    /// ```
    /// use tower_oidc_guard::Issuer;
    ///
    /// assert!(Issuer::in_cluster_at("fd00::1", "443").is_ok());
    /// assert!(Issuer::in_cluster_at("fd00::1", "https").is_err());
    /// ```
    pub fn in_cluster_at(host: &str, port: &str) -> Result<Self, BuildError> {
        let address = address(host, port).ok_or(BuildError::NotInCluster)?;
        let api = ApiServer {
            address,
            token_file: PathBuf::from(TOKEN_FILE),
            ca_file: PathBuf::from(CA_FILE),
        };
        Ok(Self::new(
            None,
            Platform::Kubernetes,
            KeyLocation::ApiServer(api),
        ))
    }
}

/// Returns the URL of the API server, or `None` if `host` and `port` do not form an address.
fn address(host: &str, port: &str) -> Option<Url> {
    let port: u16 = port.parse().ok()?;
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    let host = if is_bare_ipv6 {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let url = Url::parse(&format!("https://{host}:{port}/")).ok()?;
    let is_address = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    is_address.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_api_server_may_be_ipv6() {
        for (host, port, expected) in [
            ("10.96.0.1", "443", Some("https://10.96.0.1/")),
            ("fd00::1", "6443", Some("https://[fd00::1]:6443/")),
            ("[fd00::1]", "443", Some("https://[fd00::1]/")),
            ("api.internal", "443", Some("https://api.internal/")),
            ("10.96.0.1", "tcp", None),
            ("evil.example/x", "443", None),
            ("user@evil.example", "443", None),
        ] {
            let url = address(host, port);
            assert_eq!(url.as_ref().map(Url::as_str), expected, "{host} {port}");
        }
    }
}

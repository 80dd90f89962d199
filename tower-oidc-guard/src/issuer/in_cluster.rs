//! The cluster that this runs in.

use std::path::PathBuf;

use url::Url;

use super::Issuer;
use crate::error::BuildError;
use crate::identity::Platform;
use crate::keys::location::KeyLocation;
use crate::keys::sources::ApiServer;

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Where the kubelet mounts a service account's token, and the CA beside it.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

impl Issuer {
    /// The Kubernetes cluster that this runs in, with nothing to be said but the audience.
    ///
    /// The issuer has the name in the API server's discovery document and, unless that token is of the legacy kind, the name
    /// in the pod's own token. Both are read again with the keys, so a cluster may change its name: tokens with the new one
    /// are accepted as soon as the API server's document has it, and those with the old one while the pod's own token has
    /// it. [`also_known_as`](Self::also_known_as) keeps the old one for longer.
    ///
    /// Keys come from the API server at its in-cluster address
    /// (`KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`), with the mounted CA and token, which are
    /// read afresh each time and sent nowhere else. The client is this library's own, without proxy and
    /// redirects, whatever [`http_client`](crate::OidcGuardBuilder::http_client) says.
    ///
    /// An audience that is the API server's own does not build, because every pod has a token for it; see
    /// [`dangerous_accept_api_server_audience`](Self::dangerous_accept_api_server_audience).
    ///
    /// # Errors
    ///
    /// [`BuildError::NotInCluster`] where the two variables are not set. That token and CA are there is checked
    /// when the guard is built.
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

    /// The same with the API server's host (a name, or an address of either kind) and port said instead of taken
    /// from the environment: where a process is started without it, and for tests.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotInCluster`] where these are no host and port.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer};
    /// # fn main() -> Result<(), BuildError> {
    /// let issuer = Issuer::in_cluster_at("fd00::1", "443")?.audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_cluster_at(host: &str, port: &str) -> Result<Self, BuildError> {
        let address = address(host, port).ok_or(BuildError::NotInCluster)?;
        Ok(Self {
            platform: Platform::Kubernetes,
            key_location: KeyLocation::ApiServer(ApiServer {
                address,
                token_file: PathBuf::from(TOKEN_FILE),
                ca_file: PathBuf::from(CA_FILE),
            }),
            ..Self::oidc(String::new())
        })
    }

    /// Sets the file of the pod's token for the API server, for [`in_cluster`](Self::in_cluster). Default:
    /// `/var/run/secrets/kubernetes.io/serviceaccount/token`. If called again, the last path counts. For any other issuer it
    /// does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer};
    /// # fn example() -> Result<(), BuildError> {
    /// let issuer = Issuer::in_cluster()?
    ///     .api_token_file("/var/run/secrets/api/token")
    ///     .api_ca_file("/var/run/secrets/api/ca.crt")
    ///     .audience("me");
    /// # Ok(())
    /// # }
    /// ```
    pub fn api_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.key_location {
            KeyLocation::ApiServer(api) => api.token_file = path.into(),
            _ => self.conflicts("`api_token_file` is for `in_cluster` only"),
        }
        self
    }

    /// Sets the file of the CA that signed the API server's certificate, in PEM, for [`in_cluster`](Self::in_cluster). Default:
    /// `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`. If called again, the last path counts. For any other issuer it
    /// does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer};
    /// # fn example() -> Result<(), BuildError> {
    /// let issuer = Issuer::in_cluster()?.api_ca_file("/var/run/secrets/api/ca.crt").audience("me");
    /// # Ok(())
    /// # }
    /// ```
    pub fn api_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.key_location {
            KeyLocation::ApiServer(api) => api.ca_file = path.into(),
            _ => self.conflicts("`api_ca_file` is for `in_cluster` only"),
        }
        self
    }
}

fn address(host: &str, port: &str) -> Option<Url> {
    let port: u16 = port.parse().ok()?;
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    let host = match is_bare_ipv6 {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let url = Url::parse(&format!("https://{host}:{port}/")).ok()?;
    let is_address = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    is_address.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_s_address_is_put_together_for_ipv6_too() {
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

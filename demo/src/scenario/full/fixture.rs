//! The environment of the full scenario: issuers, a metadata server, a volume, and the servers and clients of its steps.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use reqwest_wi_auth::{Ambient, ProjectedToken};
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};
use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyFile};

use super::super::report::{Report, RequestCase};
use crate::client::settings::{ClientIdentity, GoogleSource};
use crate::client::tokens::TokenSettings;
use crate::client::{Client, Response};
use crate::output::{Component, EventLog};
use crate::server::{self, Gate, google_issuer};
use crate::{Error, error_chain};

/// The audience of the gate: the URL of the service, as on Cloud Run.
pub(super) const GATE_AUDIENCE: &str = "https://service.run.example";
/// The audiences of the application. The volume has a token for each, in the files `one` and `two`.
const AUDIENCES: [&str; 2] = ["https://auth-server.example", "https://orders.example"];
const TOKEN_FILES: [&str; 2] = ["one", "two"];
const POLICY_FILE: &str = "policy.yaml";
const GOOGLE: &str = "https://accounts.google.com";
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The Google account that the metadata server provides tokens for.
pub(super) const ACCOUNT: &str = "gke-sa@project.iam.gserviceaccount.com";
/// A Google account that sends no request.
pub(super) const NOBODY: &str = "nobody@project.iam.gserviceaccount.com";

/// The environment of the steps.
pub(super) struct Fixture<'s> {
    google: TestIssuer,
    pub(super) cluster: TestIssuer,
    metadata: FakeMetadataServer,
    kubelet: Kubelet,
    events: &'s EventLog,
    pub(super) report: &'s Arc<Report>,
    _folder: tempfile::TempDir,
}

impl<'s> Fixture<'s> {
    /// Starts the issuers and the metadata server, and writes the volume. The gate's policy allows only [`NOBODY`].
    pub(super) async fn start(
        report: &'s Arc<Report>,
        events: &'s EventLog,
    ) -> Result<Self, Error> {
        let failed = || Error::io("cannot start the fixture of the full scenario");
        let google = TestIssuer::start().await.map_err(failed())?;
        let cluster = TestIssuer::start().await.map_err(failed())?;
        let metadata = FakeMetadataServer::start().await.map_err(failed())?;
        let account = google_account(&google, ACCOUNT);
        metadata.set_token_fn(move |audience| account.clone().audience(audience).mint());
        let folder = tempfile::tempdir().map_err(failed())?;
        let kubelet = Kubelet::new(folder.path().join("volume")).map_err(failed())?;
        let fixture = Self {
            google,
            cluster,
            metadata,
            kubelet,
            events,
            report,
            _folder: folder,
        };
        fixture.write_volume(NOBODY)?;
        Ok(fixture)
    }

    /// Replaces the volume's content: the gate's policy, which allows only that Google account, and new tokens.
    pub(super) fn write_volume(&self, allowed_account: &str) -> Result<(), Error> {
        let policy = format!("allow: [\"serviceAccount:{allowed_account}\"]\n");
        let mut files = vec![(POLICY_FILE, policy)];
        for (name, audience) in TOKEN_FILES.into_iter().zip(AUDIENCES) {
            let token = self
                .cluster
                .token()
                .service_account("id-namespace", "gke-sa");
            files.push((name, token.audience(audience).mint()));
        }
        let written = self.kubelet.write(files);
        written.map_err(Error::io("cannot write the volume"))
    }

    /// Creates a gate that follows the policy file in the volume, and returns the file, too.
    pub(super) async fn gate(&self) -> Result<(Gate, PolicyFile), Error> {
        let file = PolicyFile::open(self.kubelet.path(POLICY_FILE)).await;
        let file = file.map_err(Error::file("the scenario's policy"))?;
        let gate = Gate::new(self.google_issuer(), file.policy())?;
        Ok((gate, file))
    }

    /// Returns Google as issuer, with the keys of the fixture's issuer.
    fn google_issuer(&self) -> Issuer {
        let keys = format!("{}/openid/v1/jwks", self.google.url());
        google_issuer(Some(&keys)).audience(GATE_AUDIENCE)
    }

    /// Returns the cluster as issuer, with the audiences of the application.
    pub(super) fn cluster_issuer(&self) -> Issuer {
        let issuer = Issuer::kubernetes(self.cluster.url()).insecure_loopback_http();
        AUDIENCES.into_iter().fold(issuer, Issuer::audience)
    }

    /// Returns the cluster as issuer, with another audience.
    pub(super) fn cluster_issuer_for(&self, audience: &str) -> Issuer {
        let issuer = Issuer::kubernetes(self.cluster.url()).insecure_loopback_http();
        issuer.audience(audience)
    }

    /// Returns a token of a Google account, without an audience.
    pub(super) fn google_account(&self, email: &str) -> TokenSpec {
        google_account(&self.google, email)
    }

    /// Returns the path of a file in the volume.
    pub(super) fn token_path(&self, name: &str) -> PathBuf {
        self.kubelet.path(name)
    }

    /// Mints a token of a service account for the application.
    pub(super) fn service_account_token(&self, name: &str) -> String {
        let token = self.cluster.token().service_account("id-namespace", name);
        token.audience(AUDIENCES[0]).mint()
    }

    /// Builds the guard of an application with two audiences. It would also accept the gate's token, if the gate did not
    /// remove the signature.
    pub(super) fn guard(&self) -> Result<OidcGuard, Error> {
        let account = format!("serviceAccount:{ACCOUNT}");
        let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa", &account]);
        let builder = OidcGuard::builder()
            .issuer(self.cluster_issuer())
            .issuer(self.google_issuer());
        Ok(builder.policy(policy).build()?)
    }

    /// Starts a server, behind the gate if there is one, and returns its URL. The server runs until the process ends.
    pub(super) fn serve(&self, guard: &OidcGuard, gate: Option<&Gate>) -> Result<String, Error> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, address) = server::listen(any_port)?;
        let application = server::application_routes(guard, |_| {});
        let routes = match gate {
            Some(gate) => gate.protect(application),
            None => application,
        };
        tokio::spawn(server::serve(listener, routes, std::future::pending()));
        Ok(format!("http://{address}"))
    }

    /// Creates a client of that server. `token_file` is the file of its projected token in the volume.
    pub(super) async fn client(
        &self,
        url: &str,
        identity: ClientIdentity,
        token_file: &str,
    ) -> Result<Client, Error> {
        let tokens = TokenSettings {
            projected_path: Some(self.kubelet.path(token_file)),
            google: GoogleSource::MetadataServer(Some(self.metadata.host().to_owned())),
            ambient: Ambient::builder().build(),
            audience: GATE_AUDIENCE.to_owned(),
        };
        let (client, _) = tokens.client(url, http_client(), identity).await?;
        Ok(client)
    }

    /// Creates a client of that server that sends this token.
    pub(super) fn client_with_token(
        &self,
        url: &str,
        token: ProjectedToken,
    ) -> Result<Client, Error> {
        Client::with_token(url, http_client().build()?, token)
    }

    /// Sends a request and reports whether the response has the expected status.
    pub(super) async fn expect_status(&self, client: &Client, request: RequestCase, expected: u16) {
        match client.get(request.endpoint).await {
            Ok(Response { status, .. }) if status == expected => {
                self.report.record_expected(request, &status.to_string());
            }
            Ok(Response { status, body, .. }) => {
                let response = format!("{status} {body}");
                self.report.record_unexpected(request, &response);
            }
            Err(error) => self.report.record_unexpected(request, &error_chain(&error)),
        }
    }

    /// Reports something that was not expected.
    pub(super) fn record_unexpected(&self, request: RequestCase, text: &str) {
        self.report.record_unexpected(request, text);
    }

    pub(super) fn print(&self, component: Component, name: &str, text: &str) {
        self.events.print(component, name, text);
    }
}

/// Returns a token of a Google account, without an audience, with the claims and the issuer of Google's tokens.
fn google_account(google: &TestIssuer, email: &str) -> TokenSpec {
    let token = google.token().google_account("104", email);
    token.claim("iss", GOOGLE)
}

/// Returns the builder of the clients' HTTP client. Without `no_proxy`, an `HTTP_PROXY` in the environment would also apply to
/// loopback.
pub(super) fn http_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
}

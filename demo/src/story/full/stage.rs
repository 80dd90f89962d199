//! What the acts have in common: Google, a cluster, a metadata server, volumes, servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest_wi_auth::testing::{FakeMetadataServer, Kubelet};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyFile};

use super::super::ledger::Ledger;
use crate::client::settings::Identity;
use crate::client::tokens::Tokens;
use crate::client::{Answer, Client, Path};
use crate::narrator::{Narrator, Who};
use crate::server::{self, Gate, google};
use crate::{Error, chain};

/// What the gate takes tokens for: the service's URL, as Cloud Run wants it.
pub(super) const GATE_AUDIENCE: &str = "https://service.run.example";
/// What the application takes tokens for.
pub(super) const AUDIENCES: [&str; 2] = ["https://auth-server.example", "https://orders.example"];
pub(super) const ACCOUNT: &str = "gke-sa@project.iam.gserviceaccount.com";
const GOOGLE: &str = "https://accounts.google.com";

pub(super) struct Stage<'s> {
    pub(super) google: TestIssuer,
    pub(super) cluster: TestIssuer,
    pub(super) metadata: FakeMetadataServer,
    pub(super) kubelet: Kubelet,
    pub(super) narrator: &'s Narrator,
    ledger: &'s Arc<Ledger>,
    _folder: tempfile::TempDir,
}

impl<'s> Stage<'s> {
    pub(super) async fn set(
        ledger: &'s Arc<Ledger>,
        narrator: &'s Narrator,
    ) -> Result<Self, Error> {
        let failed = || Error::io("the stage cannot be set");
        let google = TestIssuer::start().await.map_err(failed())?;
        let cluster = TestIssuer::start().await.map_err(failed())?;
        let metadata = FakeMetadataServer::start().await.map_err(failed())?;
        let account = google
            .token()
            .google_account("104", ACCOUNT)
            .claim("iss", GOOGLE);
        metadata.set_token_fn(move |audience| account.clone().audience(audience).mint());
        let folder = tempfile::tempdir().map_err(failed())?;
        let kubelet = Kubelet::new(folder.path().join("volume")).map_err(failed())?;
        let stage = Self {
            google,
            cluster,
            metadata,
            kubelet,
            narrator,
            ledger,
            _folder: folder,
        };
        stage.write_policy("serviceAccount:nobody@project.iam.gserviceaccount.com")?;
        Ok(stage)
    }

    /// Names who may pass the gate, as a swapped ConfigMap does, and writes the tokens beside it.
    pub(super) fn write_policy(&self, member: &str) -> Result<(), Error> {
        let policy = format!("allow: [\"{member}\"]\n");
        let mut files = vec![("policy.yaml", policy)];
        for (name, audience) in ["one", "two"].into_iter().zip(AUDIENCES) {
            let token = self
                .cluster
                .token()
                .service_account("id-namespace", "gke-sa");
            files.push((name, token.audience(audience).mint()));
        }
        let written = self.kubelet.write(files);
        written.map_err(Error::io("the volume cannot be written"))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.kubelet.path(name)
    }

    /// The gate, whose policy is a file that is followed.
    pub(super) async fn gate(&self) -> Result<(Gate, PolicyFile), Error> {
        let file = PolicyFile::open(self.file("policy.yaml")).await?;
        let gate = Gate::new(self.google(), file.policy())?;
        Ok((gate, file))
    }

    /// Google, whose keys are this stage's.
    fn google(&self) -> Issuer {
        let keys = format!("{}/openid/v1/jwks", self.google.url());
        google(Some(&keys)).audience(GATE_AUDIENCE)
    }

    /// The application's own guard, for both audiences. It would take the gate's token, too, were that whole.
    pub(super) fn guard(&self) -> Result<OidcGuard, Error> {
        let issuer = Issuer::kubernetes(self.cluster.url()).insecure_loopback_http();
        let issuer = AUDIENCES.into_iter().fold(issuer, Issuer::audience);
        let account = format!("serviceAccount:{ACCOUNT}");
        let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa", &account]);
        let builder = OidcGuard::builder().issuer(issuer).issuer(self.google());
        Ok(builder.policy(policy).build()?)
    }

    /// A server, behind the gate if there is one. It serves until the story is over.
    pub(super) async fn serve(
        &self,
        guard: &OidcGuard,
        gate: Option<&Gate>,
    ) -> Result<String, Error> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, address) = server::listen(anywhere)?;
        let routes = server::guarded(guard, |_| {});
        let routes = match gate {
            Some(gate) => gate.before(routes),
            None => routes,
        };
        tokio::spawn(server::serve(listener, routes, std::future::pending()));
        Ok(format!("http://{address}"))
    }

    /// A client of that server.
    pub(super) async fn client(
        &self,
        url: &str,
        sends: Identity,
        file: &str,
    ) -> Result<Client, Error> {
        let tokens = Tokens {
            projected: Some(self.file(file)),
            metadata_host: Some(self.metadata.host().to_owned()),
            google_audience: GATE_AUDIENCE.to_owned(),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10));
        let (client, _) = tokens.client(url, http, sends).await?;
        Ok(client)
    }

    /// Asks, and holds the status against the expected one.
    pub(super) async fn ask(
        &self,
        client: &Client,
        path: Path,
        expected: u16,
        event: &'static str,
        text: &str,
    ) {
        match client.get(path).await {
            Ok(Answer { status, .. }) if status == expected => {
                self.ledger.expected(event, &format!("{text}  {status}"));
            }
            Ok(Answer { status, body, .. }) => {
                self.ledger.unexpected(event, &format!("{status} {body}"));
            }
            Err(error) => self.ledger.unexpected(event, &chain(&error)),
        }
    }

    pub(super) fn tell(&self, who: Who, event: &str, text: &str) {
        self.narrator.tell(who, event, text);
    }
}

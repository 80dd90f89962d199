//! The changes around the programs: tokens, keys, policies, configurations and certificates are replaced, and the issuer fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::Failure;
use crate::callers::status;
use crate::client::ClientOutput;
use crate::environment::{
    CERTIFICATE_FILE, CHANGING_ACCOUNT, CONFIGURATION_FILE, Environment, KEY_FILE, POLICY_FILE,
    SHADOW_POLICY_FILE, Server, TOKEN_FILE, configuration, policy,
};
use crate::issuer::Answers;

/// How often the client's token is replaced.
const TOKEN_INTERVAL: Duration = Duration::from_secs(3);
/// How often the policies are replaced. The intervals have no common factor, so that each meets each in the course of time.
const POLICY_INTERVAL: Duration = Duration::from_secs(11);
/// How often the configuration is replaced.
const CONFIGURATION_INTERVAL: Duration = Duration::from_secs(13);
/// How often the certificate is replaced.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(17);
/// How long an outage lasts, and the pause after it.
const OUTAGE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_secs(4);
/// How long a server may take to fetch a key that was published: at most one fetch in 5 s is made for unknown keys, with a random
/// delay of up to 2 s, and the machine may be busy.
const PUBLISHED_AHEAD: Duration = Duration::from_secs(15);
/// How long after an outage a server may take to try again: 10 s, and 2 s for a new attempt. Then it can fetch keys at once.
const RECOVERY: Duration = Duration::from_secs(12);
/// How long both keys are published after the issuer has begun to sign with the new one.
const OVERLAP: Duration = Duration::from_secs(8);
/// How long a replaced file may take to have an effect, on a machine that is busy. The report has the longest time.
const EFFECT_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Replaces the client's token at an interval, and that of the callers. Never completes, unless a file cannot be written.
pub(crate) async fn rotate_tokens(
    environment: Arc<Environment>,
    client: Arc<ClientOutput>,
) -> Result<(), Failure> {
    for number in 1.. {
        sleep(TOKEN_INTERVAL).await;
        let token = environment
            .tokens
            .valid("gke-sa", &ClientOutput::pod(number));
        client.token_written(number);
        environment.volumes.token.rotate(TOKEN_FILE, token)?;
        environment.tokens.replace_known();
        let text = format!("token {number} of the client was written");
        environment.record.step("token rotations", "kubelet", &text);
    }
    Ok(())
}

/// Replaces the policy file of the first server and the shadow policy of the second at an interval. Every third time, the file has
/// invalid content before.
pub(crate) async fn replace_policies(environment: Arc<Environment>) -> Result<(), Failure> {
    let server = &environment.servers[0];
    let (volume, issuer) = (&environment.volumes.policy, &environment.issuer.url);
    for number in 1_u64.. {
        sleep(POLICY_INTERVAL).await;
        if number.is_multiple_of(3) {
            volume.rotate(POLICY_FILE, "allow: [")?;
            let text = "the policy file has invalid content; the previous policy applies";
            environment.record.event("policy", text);
            sleep(Duration::from_secs(1)).await;
        }
        let admits = server.expectation().admits.other();
        let content = policy(issuer, admits);
        begin_change(server);
        volume.rotate(POLICY_FILE, &content)?;
        let text = format!("policy {number} was written: admits {CHANGING_ACCOUNT}: {admits:?}");
        environment.record.step("policy changes", "policy", &text);
        let shadow = &environment.volumes.configuration;
        shadow.rotate(SHADOW_POLICY_FILE, policy(issuer, admits.other()))?;
        wait_for_decision(&environment, server, "policy changes").await;
    }
    Ok(())
}

/// Replaces the configuration of the second server at an interval. Every third time, the file has invalid content before.
pub(crate) async fn replace_configurations(environment: Arc<Environment>) -> Result<(), Failure> {
    let server = &environment.servers[1];
    let (volume, issuer) = (&environment.volumes.configuration, &environment.issuer.url);
    for number in 1_u64.. {
        sleep(CONFIGURATION_INTERVAL).await;
        let admits = server.expectation().admits.other();
        let content = configuration(issuer, admits, number);
        if number.is_multiple_of(3) {
            volume.rotate(CONFIGURATION_FILE, format!("{content}relam: x\n"))?;
            let text = "the configuration is invalid; the previous one applies";
            environment.record.event("config", text);
            sleep(Duration::from_secs(1)).await;
        }
        begin_change(server);
        volume.rotate(CONFIGURATION_FILE, &content)?;
        let text =
            format!("configuration {number} was written: admits {CHANGING_ACCOUNT}: {admits:?}");
        environment
            .record
            .step("configuration changes", "config", &text);
        wait_for_decision(&environment, server, "configuration changes").await;
    }
    Ok(())
}

/// Records that the next policy of a server decides otherwise. Until the server does so, either decision is right.
fn begin_change(server: &Server) {
    server.expect(|expectation| {
        expectation.admits = expectation.admits.other();
        expectation.is_settled = false;
        expectation.change += 1;
    });
}

/// Waits until a server decides as its new policy says. From then on, only that decision is right.
async fn wait_for_decision(environment: &Environment, server: &Server, kind: &'static str) {
    let began = Instant::now();
    let token = environment.tokens.valid(CHANGING_ACCOUNT, "caller");
    let expected = server.expectation().admits.status();
    loop {
        let found = status(server, &token, CHANGING_ACCOUNT).await;
        let delay = began.elapsed();
        if found == Ok(expected) {
            environment.record.step_took_effect(kind, delay);
            server.expect(|expectation| expectation.is_settled = true);
            let text = format!("{} follows after {delay:.1?}", server.name);
            return environment.record.event("policy", &text);
        }
        if delay > EFFECT_LIMIT + environment.record.late_since(began) {
            let text = format!(
                "{}: {found:?} after {delay:?}, expected {expected}",
                server.name
            );
            return environment.record.failure("a file has no effect", &text);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Replaces the certificate at an interval: the certificate and the key at once, or one after the other.
pub(crate) async fn replace_certificates(environment: Arc<Environment>) -> Result<(), Failure> {
    for number in 1_u64.. {
        sleep(CERTIFICATE_INTERVAL).await;
        let (certificate, key) = environment.ca.issue()?;
        let volume = &environment.volumes.tls;
        let order = if number.is_multiple_of(2) {
            volume.rotate(CERTIFICATE_FILE, &certificate)?;
            sleep(Duration::from_millis(300)).await;
            volume.rotate(KEY_FILE, &key)?;
            "before its key"
        } else {
            volume.write([(CERTIFICATE_FILE, &certificate), (KEY_FILE, &key)])?;
            "together with its key"
        };
        let text = format!("certificate {number} was written {order}");
        environment
            .record
            .step("certificate changes", "certificate", &text);
        let expected = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let began = Instant::now();
        loop {
            let found = served_certificate(&environment.servers[0]).await;
            let delay = began.elapsed();
            if found.as_ref().is_ok_and(|found| *found == expected) {
                environment
                    .record
                    .step_took_effect("certificate changes", delay);
                break;
            }
            let error = match found {
                Ok(_) => "serves the previous one".to_owned(),
                Err(error) => error.to_string(),
            };
            if delay > EFFECT_LIMIT + environment.record.late_since(began) {
                let text = format!("certificate {number} after {delay:?}: {error}");
                environment.record.failure("a file has no effect", &text);
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Returns the certificate that a server presents.
async fn served_certificate(server: &Server) -> Result<CertificateDer<'static>, Failure> {
    let stream = TcpStream::connect(&server.address).await?;
    let connector = server.tls.as_ref().ok_or("the server does not serve TLS")?;
    let name = ServerName::try_from("127.0.0.1")?;
    let stream = connector.connect(name, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(<[_]>::first);
    Ok(certificate.ok_or("no certificate")?.clone().into_owned())
}

/// Rotates the issuer's key in both ways and lets the issuer fail in all ways, again and again.
pub(crate) async fn disturb_issuer(environment: Arc<Environment>) -> Result<(), Failure> {
    const OUTAGES: [[Answers; 4]; 2] = [
        [
            Answers::Refused,
            Answers::ServerError,
            Answers::Garbage,
            Answers::Nothing,
        ],
        [
            Answers::Reset,
            Answers::CutOff,
            Answers::Slow,
            Answers::Refused,
        ],
    ];
    for cycle in 0_usize.. {
        sleep(PAUSE).await;
        publish_key_and_use_it_later(&environment).await?;
        for answers in OUTAGES[cycle % OUTAGES.len()] {
            environment.issuer.set(answers);
            let text = answers.describe();
            environment.record.step("issuer outages", "issuer", text);
            sleep(OUTAGE).await;
            environment.issuer.set(Answers::Documents);
            let text = Answers::Documents.describe();
            environment.record.event("issuer", text);
            sleep(PAUSE).await;
        }
        publish_key_and_use_it_at_once(&environment).await?;
    }
    Ok(())
}

/// Publishes a key, and signs with it once the servers have had time to fetch it.
async fn publish_key_and_use_it_later(environment: &Environment) -> Result<(), Failure> {
    publish_key(environment).await?;
    environment.record.event("issuer", "publishes a new key");
    sleep(PUBLISHED_AHEAD).await;
    use_key(environment).await
}

/// Publishes a key, and signs with it at once: the servers fetch it for the first request.
async fn publish_key_and_use_it_at_once(environment: &Environment) -> Result<(), Failure> {
    let sends = &environment.sends_tokens_of_unknown_keys;
    sends.store(false, Ordering::SeqCst);
    sleep(RECOVERY).await;
    publish_key(environment).await?;
    environment.record.new_key();
    use_key(environment).await?;
    sends.store(true, Ordering::SeqCst);
    Ok(())
}

/// Publishes a key. Generating it takes a while.
async fn publish_key(environment: &Environment) -> Result<(), Failure> {
    tokio::task::block_in_place(|| environment.issuer.keys.rotate_key())?;
    Ok(())
}

/// Signs with the key that was published last, checks that each server admits a token of it, and withdraws the previous key.
async fn use_key(environment: &Environment) -> Result<(), Failure> {
    environment.tokens.use_new_key(&environment.issuer);
    let text = "signs with the new key";
    environment.record.step("key rotations", "issuer", text);
    let mut all_admit = true;
    for server in &environment.servers {
        let began = Instant::now();
        let token = environment.tokens.valid("gke-sa", "caller");
        loop {
            let requested = Instant::now();
            let found = status(server, &token, "gke-sa").await;
            let (record, elapsed) = (&environment.record, requested.elapsed());
            match found {
                Ok(200) => record.step_took_effect("key rotations", began.elapsed()),
                Ok(status) if record.has_waited_for_new_key(status, elapsed) => continue,
                found => {
                    all_admit = false;
                    let text = format!("{}: {found:?}, expected 200", server.name);
                    record.failure("token of a new key", &text);
                }
            }
            break;
        }
    }
    if all_admit {
        environment.tokens.keys_fetched();
    }
    sleep(OVERLAP).await;
    environment.issuer.keys.withdraw_old_keys();
    environment.tokens.old_key_withdrawn();
    let text = "withdraws the previous key";
    environment.record.event("issuer", text);
    Ok(())
}

//! What is logged of a failed fetch. Alone in its file: a log event that another test meets first, while nothing is
//! collected, could be missed.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::{ISSUER_URL, guard_with_client, mock_client};
use http::Response;
use serde_json::json;
use tower_oidc_guard::Issuer;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failed_fetch_logs_only_an_excerpt_of_the_response() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _collecting = tracing::subscriber::set_default(subscriber);
    let long = "x".repeat(500_000);
    let sound = || json!({ "issuer": ISSUER_URL, "jwks_uri": "https://keys.example/jwks" });
    let with = |name: &str, value: serde_json::Value| {
        let mut document = sound();
        document[name] = value;
        document.to_string()
    };
    for (document, keys) in [
        (long.clone(), String::new()),
        (with("issuer", json!(long)), String::new()),
        (with("issuer", json!([long])), String::new()),
        (with("issuer", json!(&long[..2000])), String::new()),
        (with("jwks_uri", json!(long)), String::new()),
        (
            with("jwks_uri", json!(format!("https://{long}"))),
            String::new(),
        ),
        (
            with("id_token_signing_alg_values_supported", json!(long)),
            String::new(),
        ),
        (sound().to_string(), long.clone()),
        (sound().to_string(), json!({ "keys": long }).to_string()),
        (sound().to_string(), json!(long).to_string()),
        (
            sound().to_string(),
            json!({ "keys": [long, { "kid": long }] }).to_string(),
        ),
    ] {
        let client = mock_client(move |request| {
            let is_keys = request.url().path() == "/jwks";
            let body = if is_keys { &keys } else { &document };
            Response::new(body.clone().into_bytes())
        });
        log.0.lock().unwrap().clear();
        let guard = guard_with_client(Issuer::oidc(ISSUER_URL), client);
        let error = guard.ready().await.unwrap_err();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN"), "{text}");
        assert!(text.len() < 3000, "{} bytes: {}", text.len(), &text[..500]);
        let told = format!("{error:?}");
        assert!(told.len() < 5000, "{} bytes", told.len());
    }
}

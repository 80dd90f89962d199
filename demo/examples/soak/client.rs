//! The output of the client: the responses that it gets, and so the tokens that it sends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::record::Record;

/// How long it may take until the client sends a new token, on a machine that is busy: half the
/// lifetime of a token.
const ROTATION_LIMIT: Duration = Duration::from_secs(30);

/// Checks each line that the client prints.
#[derive(Debug)]
pub(crate) struct ClientOutput {
    record: Arc<Record>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    responses: u64,
    /// When each token was written that the client has not sent yet, by its number.
    written: BTreeMap<u64, Instant>,
    overdue: Option<u64>,
}

impl ClientOutput {
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            inner: Mutex::default(),
        }
    }

    /// Returns the name of the pod in the client's token with that number.
    pub(crate) fn pod(number: u64) -> String {
        format!("client-{number}")
    }

    /// Returns the number of responses so far.
    pub(crate) fn responses(&self) -> u64 {
        self.inner().responses
    }

    /// Records that a token is about to be written. Counts a failure if one that was written long before has not been sent.
    pub(crate) fn token_written(&self, number: u64) {
        let now = Instant::now();
        let mut inner = self.inner();
        inner.written.insert(number, now);
        let oldest = inner.written.first_key_value();
        let oldest = oldest.map(|(&number, &written)| (number, written));
        if let Some((number, written)) = oldest
            && inner.overdue != Some(number)
            && now - written > ROTATION_LIMIT + self.record.late_since(written)
        {
            inner.overdue = Some(number);
            drop(inner);
            let text = format!("token {number} was written {:?} ago", now - written);
            self.record
                .failure("client does not send its new token", &text);
        }
    }

    /// Checks a line: each response has the status 200, and the caller is the client.
    pub(crate) fn line(&self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            let text = format!("no JSON: {line}");
            return self.record.request("auth-client", Err(text));
        };
        let url = line["url"].as_str().unwrap_or_default();
        let body = line["body"].as_str().unwrap_or_default();
        let is_private = url.ends_with("/private");
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let pod = body["caller"]["pod"].as_str();
        let number = pod.and_then(|pod| pod.strip_prefix("client-")?.parse().ok());
        self.inner().responses += 1;
        let milliseconds = line["milliseconds"].as_f64().unwrap_or_default();
        let elapsed = Duration::from_secs_f64(milliseconds.max(0.0) / 1000.0);
        let status = line["status"]
            .as_u64()
            .and_then(|status| status.try_into().ok());
        if status.is_some_and(|status| self.record.has_waited_for_new_key(status, elapsed)) {
            return self.record.request("auth-client", Ok(()));
        }
        if line["status"] != 200 || is_private && number.is_none() {
            return self.record.request("auth-client", Err(line.to_string()));
        }
        self.record.request("auth-client", Ok(()));
        if let Some(number) = number {
            self.token_sent(number);
        }
    }

    /// Records that the server has received a token. Those before it are not sent anymore.
    fn token_sent(&self, number: u64) {
        let mut inner = self.inner();
        let Some(written) = inner.written.remove(&number) else {
            return;
        };
        inner.written.retain(|&other, _| other > number);
        drop(inner);
        let delay = written.elapsed();
        self.record.step_took_effect("token rotations", delay);
        if delay > ROTATION_LIMIT + self.record.late_since(written) {
            let text = format!("token {number} was sent {delay:?} after it was written");
            self.record
                .failure("client sends its new token late", &text);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the failures after these lines of the client.
    fn failures(lines: &[Value]) -> BTreeMap<String, u64> {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(&folder.path().join("timeline.log")).unwrap();
        let client = ClientOutput::new(record.clone());
        client.token_written(1);
        for line in lines {
            client.line(&line.to_string());
        }
        assert_eq!(record.requests()["auth-client"], lines.len() as u64);
        record.failures()
    }

    fn line(path: &str, status: u16, pod: &str) -> Value {
        let body = json!({ "caller": { "pod": pod } }).to_string();
        json!({ "url": format!("https://a.example{path}"), "status": status, "body": body, "milliseconds": 1 })
    }

    #[test]
    fn the_client_must_get_200_and_be_the_caller() {
        let good = [line("/", 200, ""), line("/private", 200, "client-1")];
        assert_eq!(failures(&good), BTreeMap::new());
        for bad in [
            line("/private", 401, ""),
            line("/", 503, ""),
            line("/private", 200, "caller"),
            json!({ "url": "https://a.example/", "status": null, "error": "refused" }),
        ] {
            assert_eq!(
                failures(std::slice::from_ref(&bad))["auth-client"],
                1,
                "{bad}"
            );
        }
    }
}

//! One review: the request to the API server, its response, and what the response means
//! (`authentication.k8s.io/v1`, TokenReview).

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;

use super::error::TokenReviewError;
use crate::jose::TokenError;
use crate::keys::connection_fault::ConnectionFault;
use crate::keys::error::KeysError;
use crate::keys::fetch::DocumentServer;
use crate::keys::sources::{ApiServer, ApiServerConnector, Connection};
use crate::text::{excerpt, printable, url_without_secrets};
use reqwest_wi_auth::json_object::Object;

/// The path of TokenReviews at a Kubernetes API server.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenReview";
/// The largest body of a response. It repeats the token, and lists the groups of the account.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// The longest time to wait that a response may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Asks an API server for reviews.
pub(super) struct Reviewer {
    connector: ApiServerConnector,
    url: Url,
    /// Answers in place of the API server.
    #[cfg(test)]
    pub(super) answer: Option<AnswerFn>,
}

/// Returns an answer, of an API server in a test.
#[cfg(test)]
pub(super) type AnswerFn = Box<dyn Fn() -> Answer + Send + Sync>;

/// The API server's answer about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The token is valid for these audiences, of which the guard accepts at least one.
    Confirmed {
        audiences: Vec<String>,
    },
    Refused(Denial),
}

/// Why the API server does not confirm a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) kind: DenialKind,
    /// The API server's text, shortened and without control characters.
    pub(super) text: String,
}

/// The kinds of reason for which the API server does not confirm a token that has passed all other checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenialKind {
    /// The pod, service account, node or secret that the token is bound to no longer exists. Kubernetes answers the same if it
    /// failed to read the object.
    Gone,
    /// The token has expired by the API server's clock, which allows no leeway.
    Expired,
    /// The API server does not recognize the token, or not for the guard's audiences: probably it is the API
    /// server of another cluster, or its settings have changed.
    NotRecognized,
}

impl DenialKind {
    /// Returns the error for requests with the token.
    pub(super) fn error(self) -> TokenError {
        match self {
            Self::Expired => TokenError::Expired,
            Self::Gone | Self::NotRecognized => TokenError::TokenRevoked,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'r> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'r>,
}

#[derive(Serialize)]
struct Spec<'r> {
    token: &'r str,
    audiences: &'r [String],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    status: Object<Status>,
}

#[derive(Deserialize)]
struct Status {
    authenticated: Option<bool>,
    #[serde(default)]
    user: Object<User>,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    error: String,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

/// The `Status` object in a response with an error status.
#[derive(Deserialize)]
struct Failure {
    message: String,
}

impl Reviewer {
    pub(super) fn new(api: ApiServer) -> Self {
        let mut url = api.address.clone();
        url.set_path(PATH);
        Self {
            connector: ApiServerConnector::new(api),
            url,
            #[cfg(test)]
            answer: None,
        }
    }

    /// Asks the API server about a token of this subject, for these audiences and within the time limit.
    ///
    /// If the connection fails, the request is sent once more: an idle connection may have been closed meanwhile.
    pub(super) async fn review(
        &self,
        token: &[u8],
        subject: &str,
        audiences: &[String],
        time_limit: Duration,
    ) -> Result<Answer, TokenReviewError> {
        #[cfg(test)]
        if let Some(answer) = &self.answer {
            let answer = answer();
            // It comes at any time.
            tokio::task::yield_now().await;
            return Ok(answer);
        }
        let review = async {
            match self.send(token, subject, audiences).await {
                Err(TokenReviewError::Request { .. }) => self.send(token, subject, audiences).await,
                result => result,
            }
        };
        let review = tokio::time::timeout(time_limit, review);
        review.await.unwrap_or_else(|_| {
            Err(TokenReviewError::Timeout {
                url: self.shown_url(),
                limit: time_limit,
            })
        })
    }

    async fn send(
        &self,
        token: &[u8],
        subject: &str,
        audiences: &[String],
    ) -> Result<Answer, TokenReviewError> {
        // A token that was verified is ASCII.
        let token = str::from_utf8(token).unwrap_or_default();
        let request = Request {
            api_version: API_VERSION,
            kind: KIND,
            spec: Spec { token, audiences },
        };
        let body = serde_json::to_vec(&request).map_err(|error| self.invalid(error.to_string()))?;
        let connection = self.connector.connect().await.map_err(file_error)?;
        let response = connection
            .client
            .post(self.url.clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, &connection.authorization)
            .body(body)
            .send()
            .await;
        let mut response = response.map_err(|cause| self.request_error(cause, &connection))?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.body(&mut response, &connection).await?;
        match status {
            StatusCode::CREATED | StatusCode::OK => self.read(&body, subject, audiences),
            StatusCode::FORBIDDEN => Err(TokenReviewError::MissingRole {
                url: self.shown_url(),
                message: failure_message(&body),
                account: connection.account,
            }),
            status => Err(TokenReviewError::Status {
                url: self.shown_url(),
                status,
                message: failure_message(&body),
                hint: status_hint(status),
                retry_after,
            }),
        }
    }

    async fn body(
        &self,
        response: &mut reqwest::Response,
        connection: &Connection,
    ) -> Result<Vec<u8>, TokenReviewError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|cause| self.request_error(cause.into(), connection))?
        {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(self.invalid(format!("it is larger than {MAX_RESPONSE_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the response about a token of this subject, which was to be checked for these audiences.
    fn read(
        &self,
        body: &[u8],
        subject: &str,
        accepted: &[String],
    ) -> Result<Answer, TokenReviewError> {
        let Object(response): Object<Response> = serde_json::from_slice(body).map_err(|error| {
            // The text of the error can quote the response, which repeats the token.
            let (line, column) = (error.line(), error.column());
            self.invalid(format!(
                "it is not a {KIND} with a `status` (line {line}, column {column})"
            ))
        })?;
        if response.kind != KIND || response.api_version != API_VERSION {
            return Err(self.invalid(format!("it is not a {KIND} of {API_VERSION}")));
        }
        let Object(Status {
            authenticated,
            user: Object(user),
            audiences,
            error,
        }) = response.status;
        if authenticated != Some(true) {
            if authenticated.is_none() && error.is_empty() {
                return Err(
                    self.invalid("its `status` has neither `authenticated` nor `error`".to_owned())
                );
            }
            return refusal(&error).map(Answer::Refused);
        }
        if user.username != subject {
            return Err(
                self.invalid("it is about another user than the `sub` of the token".to_owned())
            );
        }
        if !audiences.iter().any(|one| accepted.contains(one)) {
            return Ok(Answer::Refused(Denial {
                kind: DenialKind::NotRecognized,
                text: "the API server confirms the token, but for none of the guard's audiences"
                    .to_owned(),
            }));
        }
        Ok(Answer::Confirmed { audiences })
    }

    fn request_error(
        &self,
        cause: reqwest_middleware::Error,
        connection: &Connection,
    ) -> TokenReviewError {
        let cause = cause.without_url();
        let server = DocumentServer::OwnApiServer {
            authorization: connection.authorization.clone(),
        };
        let hint = ConnectionFault::find(&cause).map(|fault| match fault {
            ConnectionFault::UnknownCa => {
                "the API server's certificate is not signed by a CA in the configured CA file"
            }
            fault => fault.hint(&server),
        });
        TokenReviewError::Request {
            url: self.shown_url(),
            cause,
            hint,
        }
    }

    fn invalid(&self, reason: String) -> TokenReviewError {
        TokenReviewError::InvalidResponse {
            url: self.shown_url(),
            reason,
        }
    }

    fn shown_url(&self) -> String {
        url_without_secrets(&self.url)
    }
}

/// Classifies the text of `status.error` in the review of a token that is not authenticated.
///
/// # Errors
///
/// The API server failed to check the token, so the review does not contain an answer.
fn refusal(error: &str) -> Result<Denial, TokenReviewError> {
    let text = if error.is_empty() {
        "the API server does not authenticate the token, and does not state why".to_owned()
    } else {
        shown(error)
    };
    // What is in quotes was chosen by others: names of objects, and audiences.
    let own_words: String = error.split('"').step_by(2).collect();
    let has_any = |words: &[&str]| words.iter().any(|word| own_words.contains(word));
    let kind = if has_any(&[
        "has been invalidated",
        "has been deleted",
        "not found",
        "does not match",
    ]) {
        DenialKind::Gone
    } else if has_any(&["token has expired", "token is expired"]) {
        DenialKind::Expired
    } else if has_any(&[
        "timed out",
        "timeout",
        "deadline exceeded",
        "connection refused",
        "connection reset",
        "etcdserver",
        "context canceled",
        "too many requests",
        "Internal error",
        "internal error",
    ]) {
        return Err(TokenReviewError::ReviewFailed { message: text });
    } else {
        DenialKind::NotRecognized
    };
    Ok(Denial { kind, text })
}

/// Returns the number of seconds in a header `Retry-After`, up to [`MAX_RETRY_AFTER`].
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    // `parse` also accepts a plus sign.
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = value.parse().ok().filter(|_| is_number)?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Returns the API server's message in the body of a response with an error status.
fn failure_message(body: &[u8]) -> Option<String> {
    let failure = serde_json::from_slice::<Object<Failure>>(body).ok()?;
    Some(shown(&failure.0.message))
}

fn shown(text: &str) -> String {
    excerpt(&printable(text))
}

fn file_error(error: KeysError) -> TokenReviewError {
    match error {
        KeysError::File { path, reason } => TokenReviewError::File { path, reason },
        _ => TokenReviewError::Interrupted,
    }
}

/// Returns what an operator can do about a status, if it is known.
fn status_hint(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some(
            "the API server did not accept the guard's own token: it must be unexpired and for the API server's own audience, so the projected volume must not set `audience`",
        ),
        StatusCode::NOT_FOUND => Some(
            "the server has no API `authentication.k8s.io/v1`: check that the address is that of a Kubernetes API server",
        ),
        StatusCode::TOO_MANY_REQUESTS => {
            Some("the API server limits the rate; lower `max_reviews_per_second` or raise `ttl`")
        }
        status if status.is_redirection() => {
            Some("redirects are not followed, because the request contains tokens")
        }
        _ => None,
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: &str) -> Option<DenialKind> {
        refusal(error).ok().map(|refusal| refusal.kind)
    }

    #[test]
    fn the_error_of_a_review_tells_what_is_gone_from_a_wrong_api_server_and_from_a_failure() {
        use DenialKind::{Expired, Gone, NotRecognized};
        for (error, expected) in [
            // Recorded.
            (
                "[invalid bearer token, service account token has been invalidated]",
                Some(Gone),
            ),
            (
                "[invalid bearer token, serviceaccounts \"gke-sa\" not found]",
                Some(Gone),
            ),
            (
                "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]",
                Some(NotRecognized),
            ),
            (
                "[invalid bearer token, square/go-jose: error in cryptographic primitive]",
                Some(NotRecognized),
            ),
            ("invalid bearer token", Some(NotRecognized)),
            (
                "[invalid bearer token, token audiences [\"https://auth-server.example\"] is invalid for the target audiences [\"https://wrong.example\"]]",
                Some(NotRecognized),
            ),
            // From the source of Kubernetes.
            (
                "[invalid bearer token, pod UID (1) does not match service account pod ref claim (2)]",
                Some(Gone),
            ),
            (
                "[invalid bearer token, service account token has expired]",
                Some(Expired),
            ),
            (
                "[invalid bearer token, etcdserver: request timed out]",
                None,
            ),
            ("[invalid bearer token, context deadline exceeded]", None),
            // A name in quotes is not the API server's word.
            (
                "[invalid bearer token, serviceaccounts \"timeout\" not found]",
                Some(Gone),
            ),
            (
                "[invalid bearer token, token audiences [\"timeout\" \"not found\"] is invalid for the target audiences [\"a\"]]",
                Some(NotRecognized),
            ),
            ("", Some(NotRecognized)),
        ] {
            assert_eq!(kind(error), expected, "{error}");
        }
    }

    #[test]
    fn the_text_of_a_refusal_is_short_and_printable() {
        let refusal = refusal(&format!("a\u{1b}[31m\n{}", "b".repeat(1000))).unwrap();
        assert!(refusal.text.chars().count() <= 101, "{}", refusal.text);
        assert!(!refusal.text.chars().any(char::is_control));
    }
}

//! Requests tokens of a service account from IAM Credentials.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::config::quoted;
use crate::error::FetchError;
use crate::json_object::{Object, object};
use crate::source::http::{Endpoint, HttpClient, Response, Secrets};
use crate::timestamp::parse_timestamp;
use crate::token::Token;
use crate::token::jwt::Audiences;

const ACCESS_TOKEN_METHOD: &str = ":generateAccessToken";
const IDENTITY_TOKEN_METHOD: &str = ":generateIdToken";
const QUOTA_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");

/// The longest lifetime of an access token without an exception in the policy of the organization.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// A service account, whose tokens the federated identity may request.
#[derive(Debug, Clone)]
pub(super) struct ServiceAccount {
    access_tokens: Endpoint,
    identity_tokens: Endpoint,
    /// The email address or the unique ID.
    email: String,
    /// The project of the requests, for quota.
    quota_project: Option<HeaderValue>,
    lifetime: Duration,
    /// The pool of the federated identity, for advice.
    pool: String,
}

/// Whether an identity token contains the email address of the service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Email {
    Included,
    Omitted,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentityTokenRequest<'a> {
    audience: &'a str,
    include_email: bool,
}

#[derive(Deserialize)]
struct IdentityTokenResponse<'b> {
    #[serde(borrow)]
    token: Cow<'b, str>,
}

#[derive(Serialize)]
struct AccessTokenRequest<'a> {
    scope: &'a [String],
    lifetime: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessTokenResponse<'b> {
    #[serde(borrow)]
    access_token: Cow<'b, str>,
    expire_time: String,
}

/// The part of an error response that states its reason.
#[derive(Deserialize)]
struct ErrorResponse {
    #[serde(deserialize_with = "object")]
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    details: Vec<Object<ErrorDetail>>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    reason: Option<String>,
}

impl ServiceAccount {
    /// Creates a service account from the URL of its access tokens. The error is the end of a sentence about the
    /// configuration.
    pub(super) fn new(
        access_tokens: Endpoint,
        quota_project: Option<&str>,
        lifetime: Option<Duration>,
        audience: &str,
    ) -> Result<Self, String> {
        let path = access_tokens.url().path();
        let account = path.strip_suffix(ACCESS_TOKEN_METHOD);
        let email = account.and_then(|account| account.rsplit_once("/serviceAccounts/"));
        let email = email.map(|(_, email)| email.replace("%40", "@"));
        let (Some(account), Some(email)) = (account, email.filter(|email| is_account(email)))
        else {
            return Err(format!(
                "its `service_account_impersonation_url` has the path {}; expected \
                 `/v1/projects/-/serviceAccounts/EMAIL{ACCESS_TOKEN_METHOD}`",
                quoted(path)
            ));
        };
        let identity_tokens = access_tokens.with_path(&format!("{account}{IDENTITY_TOKEN_METHOD}"));
        let quota_project = match quota_project {
            None => None,
            Some(project) => Some(HeaderValue::try_from(project).map_err(|_| {
                format!(
                    "its `quota_project_id` is {}, which is not the ID of a project",
                    quoted(project)
                )
            })?),
        };
        let pool = audience.split("/providers/").next().unwrap_or_default();
        Ok(Self {
            identity_tokens,
            access_tokens,
            email,
            quota_project,
            lifetime: lifetime.unwrap_or(DEFAULT_LIFETIME),
            pool: pool.trim_start_matches('/').to_owned(),
        })
    }

    /// Returns the path of the access tokens of a service account.
    pub(super) fn path(email: &str) -> String {
        format!("/v1/projects/-/serviceAccounts/{email}{ACCESS_TOKEN_METHOD}")
    }

    /// Returns the endpoint of identity tokens.
    pub(super) fn identity_tokens(&self) -> &Endpoint {
        &self.identity_tokens
    }

    /// Returns the endpoint of access tokens.
    pub(super) fn access_tokens(&self) -> &Endpoint {
        &self.access_tokens
    }

    /// Returns the email address or the unique ID.
    pub(super) fn email(&self) -> &str {
        &self.email
    }

    /// Requests an identity token for an audience.
    pub(super) async fn request_identity_token(
        &self,
        http: &HttpClient,
        federated: &Token,
        audience: &str,
        email: Email,
    ) -> Result<Token, FetchError> {
        let request = IdentityTokenRequest {
            audience,
            include_email: email == Email::Included,
        };
        let response = self
            .send(http, &self.identity_tokens, federated, &request)
            .await?;
        let body: IdentityTokenResponse = self.parse(&response)?;
        let (token, audiences) = Token::parse_jwt(body.token.as_bytes()).map_err(|error| {
            response.invalid(format!("`token` is not an identity token: {error}"))
        })?;
        if !audiences.iter().any(|found| found == audience) {
            return Err(FetchError::WrongAudience {
                endpoint: self.identity_tokens.to_string(),
                expected: audience.to_owned(),
                // The server may repeat the federated token.
                found: response.redacted(&Audiences(&audiences).to_string()),
            });
        }
        Ok(token)
    }

    /// Requests an access token with scopes.
    pub(super) async fn request_access_token(
        &self,
        http: &HttpClient,
        federated: &Token,
        scopes: &[String],
    ) -> Result<Token, FetchError> {
        let request = AccessTokenRequest {
            scope: scopes,
            lifetime: format!("{}s", self.lifetime.as_secs()),
        };
        let response = self
            .send(http, &self.access_tokens, federated, &request)
            .await?;
        let body: AccessTokenResponse = self.parse(&response)?;
        let expires_at: SystemTime = parse_timestamp(&body.expire_time).ok_or_else(|| {
            response.invalid("`expireTime` is not a time in the format of RFC 3339")
        })?;
        let token = Token::opaque(body.access_token.as_bytes())
            .map_err(|error| response.invalid(format!("`accessToken` is not a token: {error}")))?;
        Ok(token.with_max_expiry(expires_at))
    }

    async fn send(
        &self,
        http: &HttpClient,
        endpoint: &Endpoint,
        federated: &Token,
        body: &(impl Serialize + Sync),
    ) -> Result<Response, FetchError> {
        let body = serde_json::to_vec(body).map_err(|error| FetchError::InvalidResponse {
            endpoint: endpoint.to_string(),
            reason: format!("the request cannot be encoded: {error}"),
        })?;
        let secrets = Secrets::default().with_token(federated);
        http.send(endpoint, secrets, |client| {
            let request = client
                .post(endpoint.url().clone())
                .header(AUTHORIZATION, federated.header().clone())
                .header(CONTENT_TYPE, "application/json")
                .body(body);
            match &self.quota_project {
                Some(project) => request.header(QUOTA_PROJECT, project.clone()),
                None => request,
            }
        })
        .await
    }

    fn parse<'b, T: Deserialize<'b>>(&self, response: &'b Response) -> Result<T, FetchError> {
        response
            .json()
            .map_err(|error| match self.advice(response) {
                Some(advice) => error.with_advice(advice),
                None => error,
            })
    }

    /// Returns what to do about an error response, if that is known.
    fn advice(&self, response: &Response) -> Option<String> {
        let Self { email, pool, .. } = self;
        let parsed = serde_json::from_slice::<Object<ErrorResponse>>(response.body());
        let reasons = parsed
            .map(|Object(response)| response.error.details)
            .unwrap_or_default();
        let has_reason = |name: &str| {
            reasons
                .iter()
                .any(|Object(detail)| detail.reason.as_deref() == Some(name))
        };
        match response.status() {
            StatusCode::FORBIDDEN if has_reason("SERVICE_DISABLED") => Some(
                "enable the API in the project that the message names: `gcloud services enable iamcredentials.googleapis.com`"
                    .to_owned(),
            ),
            StatusCode::FORBIDDEN if has_reason("USER_PROJECT_DENIED") => Some(
                "grant `roles/serviceusage.serviceUsageConsumer` on the project in `quota_project_id`, or remove that member"
                    .to_owned(),
            ),
            StatusCode::FORBIDDEN => Some(format!(
                "grant the federated identity the role on the service account, and wait for two minutes: `gcloud iam \
                 service-accounts add-iam-policy-binding {email} --role roles/iam.workloadIdentityUser --member \
                 principal://{pool}/subject/SUBJECT`, where SUBJECT is what the provider maps to google.subject"
            )),
            StatusCode::NOT_FOUND => Some(format!(
                "check that the service account {email} exists: `gcloud iam service-accounts describe {email}`"
            )),
            StatusCode::BAD_REQUEST if self.lifetime > DEFAULT_LIFETIME => Some(format!(
                "access tokens that live longer than 3600 s require the service account {email} in the organization policy \
                 `constraints/iam.allowServiceAccountCredentialLifetimeExtension`"
            )),
            _ => None,
        }
    }
}

/// Returns whether a text can be the email address or the unique ID of a service account.
pub(super) fn is_account(text: &str) -> bool {
    let is_valid =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(is_valid) && text != "-"
}

/// Returns whether IAM Credentials has rejected the federated token itself.
pub(super) fn is_federated_token_rejected(error: &FetchError) -> bool {
    matches!(error, FetchError::Status { status, .. } if *status == StatusCode::UNAUTHORIZED)
}

//! The responses of the Security Token Service.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use reqwest::Url;
use serde_json::{Value, json};

use super::super::http_server::{self, Body};
use super::{
    FederatedToken, GoogleFault, JWT, Settings, State, content_type, echo, lock, not_found,
    provider, unix_seconds,
};

const FORM: &str = "application/x-www-form-urlencoded";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// How long after its expiry a subject token is accepted.
const LEEWAY: Duration = Duration::from_secs(60);

/// The shortest lifetime that a response states.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);

/// An error response, as defined by RFC 6749, section 5.2.
struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: String,
}

/// Returns the response to a request for `/v1/token`.
pub(super) async fn respond(
    request: &Request<Bytes>,
    state: &State,
    settings: &Settings,
) -> Response<Body> {
    if request.method() != Method::POST {
        return not_found(request);
    }
    let mut response = match exchange(request, state, settings).await {
        Ok(body) => http_server::json(StatusCode::OK, &body),
        Err(error) => {
            let body = json!({ "error": error.error, "error_description": error.description });
            http_server::json(error.status, &body)
        }
    };
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static("application/json; charset=UTF-8");
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    response
}

async fn exchange(
    request: &Request<Bytes>,
    state: &State,
    settings: &Settings,
) -> Result<Value, OAuthError> {
    let fault = settings.fault.as_ref();
    if fault == Some(&GoogleFault::EchoedRequest) {
        return Err(invalid("invalid_request", echo(request)));
    }
    if fault == Some(&GoogleFault::QuotaExceeded) {
        return Err(OAuthError {
            status: StatusCode::TOO_MANY_REQUESTS,
            error: "quota_exceeded",
            description:
                "The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds."
                    .to_owned(),
        });
    }
    if content_type(request) != FORM {
        let description = format!("Unsupported content type {:?}", content_type(request));
        return Err(invalid("invalid_request", description));
    }
    let form = Form::parse(request.body())?;
    form.require("grant_type", &[GRANT_TYPE])?;
    form.require("requested_token_type", &[ACCESS_TOKEN])?;
    let audience = form.value("audience")?;
    if !is_provider(audience) {
        return Err(invalid(
            "invalid_request",
            "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider. See \
             https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.",
        ));
    }
    let scope = form.value("scope")?;
    form.require("subject_token_type", &[JWT, ID_TOKEN])?;
    let subject = form.value("subject_token")?;
    if audience != provider() || fault == Some(&GoogleFault::ProviderDisabled) {
        return Err(invalid(
            "invalid_target",
            "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool \
             or provider is disabled or deleted or because it doesn't exist.",
        ));
    }
    let now = (settings.clock)();
    let remaining = verify(subject, settings, now).await?;
    if fault == Some(&GoogleFault::AttributeCondition) {
        return Err(invalid(
            "unauthorized_client",
            "The given credential is rejected by the attribute condition.",
        ));
    }
    let lifetime = remaining.min(settings.federated_lifetime);
    let count = state.exchanges.fetch_add(1, Ordering::SeqCst);
    let token = format!("ya29.d.fake{count:08}{:032x}", fastrand::u128(..));
    if fault != Some(&GoogleFault::InvalidFederatedToken) {
        let issued = FederatedToken {
            scope: scope.to_owned(),
            expires_at: now + lifetime,
        };
        lock(&state.federated).insert(token.clone(), issued);
    }
    let mut body = json!({
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
    });
    if lifetime >= SHORTEST_LIFETIME && fault != Some(&GoogleFault::MissingExpiresIn) {
        body["expires_in"] = json!(lifetime.as_secs());
    }
    Ok(body)
}

/// Verifies a subject token, and returns how long it is still valid.
async fn verify(token: &str, settings: &Settings, now: SystemTime) -> Result<Duration, OAuthError> {
    let rejected = |description: String| invalid("invalid_grant", description);
    let claims =
        parse_claims(token).ok_or_else(|| rejected("Unable to parse the ID Token.".to_owned()))?;
    let issuer = claims["iss"].as_str().unwrap_or_default();
    if let Some(expected) = &settings.issuer
        && issuer != expected
    {
        return Err(rejected(format!(
            "The issuer in ID Token {issuer} does not match the expected one in config: {expected}."
        )));
    }
    if settings.fault == Some(GoogleFault::IssuerUnreachable) {
        return Err(rejected(
            "Error connecting to the given credential's issuer.".to_owned(),
        ));
    }
    let audiences: Vec<&str> = match &claims["aud"] {
        Value::String(audience) => vec![audience],
        Value::Array(audiences) => audiences.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_allowed = |audience: &str| {
        if settings.audiences.is_empty() {
            audience.strip_prefix("https:").unwrap_or(audience) == provider()
        } else {
            settings.audiences.iter().any(|allowed| allowed == audience)
        }
    };
    if !audiences.iter().any(|audience| is_allowed(audience)) {
        return Err(rejected(format!(
            "The audience in ID Token [{}] does not match the expected audience.",
            audiences.join(", ")
        )));
    }
    let (Some(issued_at), Some(expires_at)) = (claims["iat"].as_u64(), claims["exp"].as_u64())
    else {
        return Err(rejected("Unable to parse the ID Token.".to_owned()));
    };
    if unix_seconds(now) > expires_at.saturating_add(LEEWAY.as_secs()) {
        return Err(rejected(format!(
            "ID Token issued at {issued_at} is stale to sign-in."
        )));
    }
    if let Some(verify) = &settings.verify_subject {
        verify(token.to_owned()).await.map_err(rejected)?;
    }
    Ok(Duration::from_secs(
        expires_at.saturating_sub(unix_seconds(now)),
    ))
}

fn parse_claims(token: &str) -> Option<Value> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, _] = parts[..] else {
        return None;
    };
    let decode = |part| -> Option<Value> {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    decode(header)?.as_object()?;
    let claims = decode(payload)?;
    claims.is_object().then_some(claims)
}

/// Returns whether an audience has the format of the resource name of a provider.
fn is_provider(audience: &str) -> bool {
    let Some(name) = audience.strip_prefix("//iam.googleapis.com/") else {
        return false;
    };
    let parts: Vec<&str> = name.split('/').collect();
    matches!(
        parts[..],
        ["projects", project, "locations", "global", "workloadIdentityPools", pool, "providers", provider]
            if !project.is_empty() && project.bytes().all(|byte| byte.is_ascii_digit())
                && !pool.is_empty() && !provider.is_empty()
    )
}

/// The parameters of a form. One without a value is treated as missing.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let malformed = || invalid("invalid_request", "The request body is malformed.");
        let text = std::str::from_utf8(body).map_err(|_| malformed())?;
        // The query of a URL has the format of a form.
        let url = Url::parse(&format!("http://form/?{text}")).map_err(|_| malformed())?;
        let mut pairs = Vec::<(String, String)>::new();
        for (name, value) in url.query_pairs() {
            if pairs.iter().any(|(known, _)| *known == name) {
                let description = format!("Duplicate parameter \"{name}\".");
                return Err(invalid("invalid_request", description));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    fn value(&self, name: &str) -> Result<&str, OAuthError> {
        let pair = self.0.iter().find(|(known, _)| known == name);
        let value = pair.map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            invalid(
                "invalid_request",
                format!("Missing required parameter \"{name}\"."),
            )
        })
    }

    fn require(&self, name: &str, expected: &[&str]) -> Result<(), OAuthError> {
        if expected.contains(&self.value(name)?) {
            return Ok(());
        }
        let description = format!("Invalid value for \"{name}\".");
        Err(invalid("invalid_request", description))
    }
}

fn invalid(error: &'static str, description: impl Into<String>) -> OAuthError {
    OAuthError {
        status: StatusCode::BAD_REQUEST,
        error,
        description: description.into(),
    }
}

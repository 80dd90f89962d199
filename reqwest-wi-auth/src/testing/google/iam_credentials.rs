//! The responses of IAM Credentials.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::super::http_server::{self, Body};
use super::{
    ACCOUNT_ID, EMAIL, GoogleFault, GoogleTokenRequest, PROJECT_NUMBER, Settings, State,
    content_type, echo, lock, not_found, sign, unix_seconds,
};
use crate::timestamp::format_timestamp;

const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
const IAM: &str = "https://www.googleapis.com/auth/iam";
const LONGEST_LIFETIME: Duration = Duration::from_secs(3600);

/// An error response of a Google API.
struct ApiError {
    code: StatusCode,
    status: &'static str,
    message: String,
    details: Vec<Value>,
    challenge: Option<&'static str>,
}

/// A method of a service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ApiMethod {
    GenerateIdToken,
    GenerateAccessToken,
}

impl ApiMethod {
    /// Returns the name of the permission that the method requires.
    fn permission(self) -> &'static str {
        match self {
            Self::GenerateIdToken => "iam.serviceAccounts.getOpenIdToken",
            Self::GenerateAccessToken => "iam.serviceAccounts.getAccessToken",
        }
    }

    /// Returns the names of the members of the request.
    fn members(self) -> &'static [&'static str] {
        match self {
            Self::GenerateIdToken => &["audience", "includeEmail", "useEmailAzp", "delegates"],
            Self::GenerateAccessToken => &["scope", "lifetime", "delegates"],
        }
    }
}

/// Returns the response to a request.
pub(super) fn respond(
    request: &Request<Bytes>,
    state: &State,
    settings: &Settings,
) -> Response<Body> {
    let path = request.uri().path();
    // The wildcard is required in place of a project.
    let account = path.strip_prefix("/v1/projects/-/serviceAccounts/");
    let parts = account.and_then(|account| account.split_once(':'));
    let method = match parts {
        Some((_, "generateIdToken")) => ApiMethod::GenerateIdToken,
        Some((_, "generateAccessToken")) => ApiMethod::GenerateAccessToken,
        _ => return not_found(request),
    };
    if request.method() != Method::POST {
        return not_found(request);
    }
    let account = parts.map_or_else(String::new, |(account, _)| account.replace("%40", "@"));
    let mut response = match generate(request, method, &account, state, settings) {
        Ok(body) => http_server::json(StatusCode::OK, &body),
        Err(error) => {
            let mut body = json!({ "error": {
                "code": error.code.as_u16(),
                "message": error.message,
                "status": error.status,
            }});
            if !error.details.is_empty() {
                body["error"]["details"] = Value::Array(error.details);
            }
            let mut response = http_server::json(error.code, &body);
            if let Some(challenge) = error.challenge {
                let challenge = HeaderValue::from_static(challenge);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    };
    let content_type = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn generate(
    request: &Request<Bytes>,
    method: ApiMethod,
    account: &str,
    state: &State,
    settings: &Settings,
) -> Result<Value, ApiError> {
    let fault = settings.fault.as_ref();
    let now = (settings.clock)();
    if fault == Some(&GoogleFault::EchoedRequest) {
        return Err(invalid_argument(echo(request)));
    }
    authenticate(request, state, now)?;
    let body = parse_body(request, method)?;
    if fault == Some(&GoogleFault::ApiDisabled) {
        return Err(api_disabled());
    }
    let is_known = account == EMAIL || account == ACCOUNT_ID;
    if !is_known || fault == Some(&GoogleFault::ServiceAccountNotFound) {
        return Err(ApiError {
            code: StatusCode::NOT_FOUND,
            status: "NOT_FOUND",
            message: format!("Not found; Gaia id not found for email {account}"),
            details: Vec::new(),
            challenge: None,
        });
    }
    if fault == Some(&GoogleFault::PermissionDenied) {
        return Err(permission_denied(method.permission()));
    }
    let quota_project = request.headers().get("x-goog-user-project");
    let quota_project =
        quota_project.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let request = match method {
        ApiMethod::GenerateIdToken => identity_request(&body, quota_project)?,
        ApiMethod::GenerateAccessToken => access_request(&body, quota_project)?,
    };
    lock(&state.accepted).push(request.clone());
    Ok(create_response(&request, state, settings, now))
}

/// Checks the federated token.
fn authenticate(request: &Request<Bytes>, state: &State, now: SystemTime) -> Result<(), ApiError> {
    let Some(header) = request.headers().get(AUTHORIZATION) else {
        return Err(ApiError {
            code: StatusCode::UNAUTHORIZED,
            status: "UNAUTHENTICATED",
            message: "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
                      other valid authentication credential. See \
                      https://developers.google.com/identity/sign-in/web/devconsole-project."
                .to_owned(),
            details: vec![error_info("CREDENTIALS_MISSING", "googleapis.com", json!({}))],
            challenge: Some("Bearer realm=\"https://accounts.google.com/\""),
        });
    };
    let header = header.to_str().unwrap_or_default();
    let token = header
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let federated = lock(&state.federated);
    let federated = token.and_then(|(_, token)| federated.get(token));
    let Some(federated) = federated.filter(|token| token.expires_at > now) else {
        return Err(ApiError {
            code: StatusCode::UNAUTHORIZED,
            status: "UNAUTHENTICATED",
            message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
                      valid authentication credential. See \
                      https://developers.google.com/identity/sign-in/web/devconsole-project."
                .to_owned(),
            details: Vec::new(),
            challenge: Some("Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\""),
        });
    };
    let has_scope = federated
        .scope
        .split(' ')
        .any(|scope| scope == CLOUD_PLATFORM || scope == IAM);
    if !has_scope {
        return Err(ApiError {
            code: StatusCode::FORBIDDEN,
            status: "PERMISSION_DENIED",
            message: "Request had insufficient authentication scopes.".to_owned(),
            details: vec![error_info(
                "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                "googleapis.com",
                json!({ "service": "iamcredentials.googleapis.com" }),
            )],
            challenge: Some(
                "Bearer realm=\"https://accounts.google.com/\", error=\"insufficient_scope\"",
            ),
        });
    }
    Ok(())
}

/// Parses the body: a JSON object without unknown members.
fn parse_body(request: &Request<Bytes>, method: ApiMethod) -> Result<Map<String, Value>, ApiError> {
    if content_type(request) != "application/json" {
        return Err(invalid_argument(
            "Invalid JSON payload received. Unexpected token.",
        ));
    }
    let body: Value = serde_json::from_slice(request.body())
        .map_err(|_| invalid_argument("Invalid JSON payload received. Unexpected token."))?;
    let Value::Object(body) = body else {
        return Err(invalid_argument(
            "Invalid JSON payload received. Unknown name \"\": Root element must be a message.",
        ));
    };
    match body
        .keys()
        .find(|name| !method.members().contains(&name.as_str()))
    {
        Some(unknown) => Err(invalid_argument(format!(
            "Invalid JSON payload received. Unknown name \"{unknown}\": Cannot find field."
        ))),
        None => Ok(body),
    }
}

fn identity_request(
    body: &Map<String, Value>,
    quota_project: Option<String>,
) -> Result<GoogleTokenRequest, ApiError> {
    let audience = match body.get("audience") {
        Some(Value::String(audience)) if !audience.is_empty() => audience.clone(),
        Some(Value::String(_)) | None => {
            return Err(invalid_argument("Request contains an invalid argument."));
        }
        Some(_) => return Err(invalid_value("audience", "TYPE_STRING")),
    };
    let boolean = |name: &str| match body.get(name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid_value(name, "TYPE_BOOL")),
    };
    Ok(GoogleTokenRequest::Identity {
        service_account: EMAIL.to_owned(),
        audience,
        include_email: boolean("includeEmail")?,
        use_email_azp: boolean("useEmailAzp")?,
        quota_project,
    })
}

fn access_request(
    body: &Map<String, Value>,
    quota_project: Option<String>,
) -> Result<GoogleTokenRequest, ApiError> {
    let mut scopes = Vec::new();
    match body.get("scope") {
        None => {}
        Some(Value::Array(values)) => {
            for value in values {
                match value.as_str() {
                    Some(scope) => scopes.push(scope.to_owned()),
                    None => return Err(invalid_value("scope", "TYPE_STRING")),
                }
            }
        }
        Some(_) => return Err(invalid_value("scope", "TYPE_STRING")),
    }
    if scopes.is_empty() || scopes.iter().any(String::is_empty) {
        return Err(invalid_argument("Request contains an invalid argument."));
    }
    let lifetime = match body.get("lifetime") {
        None => LONGEST_LIFETIME,
        Some(value) => {
            let seconds = value.as_str().and_then(|text| text.strip_suffix('s'));
            let seconds = seconds.and_then(|seconds| seconds.parse().ok());
            Duration::from_secs(seconds.ok_or_else(|| {
                invalid_value("lifetime", "type.googleapis.com/google.protobuf.Duration")
            })?)
        }
    };
    if lifetime.is_zero() || lifetime > LONGEST_LIFETIME {
        return Err(invalid_argument("Request contains an invalid argument."));
    }
    Ok(GoogleTokenRequest::Access {
        service_account: EMAIL.to_owned(),
        scopes,
        lifetime,
        quota_project,
    })
}

fn create_response(
    request: &GoogleTokenRequest,
    state: &State,
    settings: &Settings,
    now: SystemTime,
) -> Value {
    let count = state.issued.fetch_add(1, Ordering::Relaxed);
    let created = settings.token_fn.as_ref().map(|create| create(request));
    match request {
        GoogleTokenRequest::Identity {
            audience,
            include_email,
            use_email_azp,
            ..
        } => {
            let fault = settings.fault.as_ref();
            let is_replaced = matches!(
                fault,
                Some(GoogleFault::WrongAudience | GoogleFault::ExpiredToken)
            );
            let token = match created {
                _ if fault == Some(&GoogleFault::InvalidToken) => "<html>".to_owned(),
                Some(token) if !is_replaced => token,
                _ => {
                    let audience = match fault {
                        Some(GoogleFault::WrongAudience) => "https://other.example",
                        _ => audience,
                    };
                    let issued_at = match fault {
                        Some(GoogleFault::ExpiredToken) => now - 2 * settings.token_lifetime,
                        _ => now,
                    };
                    let mut claims = json!({
                        "aud": audience,
                        "azp": if *use_email_azp { EMAIL } else { ACCOUNT_ID },
                        "exp": unix_seconds(issued_at + settings.token_lifetime),
                        "iat": unix_seconds(issued_at),
                        "iss": "https://accounts.google.com",
                        "sub": ACCOUNT_ID,
                    });
                    if *include_email {
                        claims["email"] = json!(EMAIL);
                        claims["email_verified"] = json!(true);
                    }
                    sign(&claims, count)
                }
            };
            json!({ "token": token })
        }
        GoogleTokenRequest::Access { lifetime, .. } => {
            let token = created
                .unwrap_or_else(|| format!("ya29.c.fake{count:08}{:032x}", fastrand::u128(..)));
            json!({ "accessToken": token, "expireTime": format_timestamp(now + *lifetime) })
        }
    }
}

fn permission_denied(permission: &str) -> ApiError {
    ApiError {
        code: StatusCode::FORBIDDEN,
        status: "PERMISSION_DENIED",
        message: format!("Permission '{permission}' denied on resource (or it may not exist)."),
        details: vec![error_info(
            "IAM_PERMISSION_DENIED",
            "iam.googleapis.com",
            json!({ "permission": permission }),
        )],
        challenge: None,
    }
}

fn api_disabled() -> ApiError {
    ApiError {
        code: StatusCode::FORBIDDEN,
        status: "PERMISSION_DENIED",
        message: format!(
            "IAM Service Account Credentials API has not been used in project {PROJECT_NUMBER} before or it is disabled. \
             Enable it by visiting \
             https://console.developers.google.com/apis/api/iamcredentials.googleapis.com/overview?project={PROJECT_NUMBER} \
             then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our systems and \
             retry."
        ),
        details: vec![error_info(
            "SERVICE_DISABLED",
            "googleapis.com",
            json!({
                "service": "iamcredentials.googleapis.com",
                "consumer": format!("projects/{PROJECT_NUMBER}"),
            }),
        )],
        challenge: None,
    }
}

fn invalid_argument(message: impl Into<String>) -> ApiError {
    ApiError {
        code: StatusCode::BAD_REQUEST,
        status: "INVALID_ARGUMENT",
        message: message.into(),
        details: Vec::new(),
        challenge: None,
    }
}

fn invalid_value(member: &str, kind: &str) -> ApiError {
    invalid_argument(format!("Invalid value at '{member}' ({kind})"))
}

fn error_info(reason: &str, domain: &str, metadata: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": domain,
        "metadata": metadata,
    })
}

//! The responses of the fake of Microsoft Entra ID, as a function of the request.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, PRAGMA};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{EntraError, EntraTokenVersion, FakeEntra};
use crate::testing::http_server::{self, Body};
use crate::timestamp::format_timestamp;

const CLIENT_CREDENTIALS: &str = "client_credentials";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const DEFAULT: &str = "/.default";

const TRACE_ID: &str = "007fc931-d337-4638-8760-8f5c9c231e00";
const CORRELATION_ID: &str = "bc6ac312-88fd-4b97-8d37-6566985045b9";

/// The object ID of the application's service principal.
const OBJECT_ID: &str = "0b5a3c1e-9a4f-4d0a-8f3e-2d6c7b8a9f01";
/// The ID of a resource's application, which is the audience of tokens of version 2.0.
const RESOURCE_ID: &str = "7e307b14-2a27-4f66-ada8-ec6400eb4977";

/// The size in bytes of an RS256 signature by a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// How long before the time of issue a token becomes valid, as the real server sets `iat` and `nbf`.
const BACKDATED: u64 = 300;

/// The issuer and the subject that an assertion requires.
#[derive(Clone)]
pub(super) struct FederatedCredential {
    pub(super) issuer: String,
    pub(super) subject: String,
}

/// An application that accepts tokens.
#[derive(Clone)]
pub(super) struct Resource {
    pub(super) uri: String,
    pub(super) version: EntraTokenVersion,
}

/// A valid request for an access token.
pub(super) struct AccessTokenRequest {
    pub(super) resource: Resource,
}

/// The parameters of a form. Empty if the request has another content type.
pub(super) struct Form(Vec<(String, String)>);

/// The claims of an assertion.
#[derive(Deserialize)]
struct Assertion {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Form {
    pub(super) fn parse(request: &Request<Bytes>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next();
        let is_form = essence.is_some_and(|essence| {
            let expected = "application/x-www-form-urlencoded";
            essence.trim().eq_ignore_ascii_case(expected)
        });
        let body: &[u8] = if is_form { request.body() } else { &[] };
        let pairs = form_urlencoded::parse(body);
        let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
        Self(pairs.collect())
    }

    /// Returns the first value of a parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        let value = pairs.find_map(|(found, value)| (found == name).then_some(value.as_str()));
        value.filter(|value| !value.is_empty())
    }

    fn has_repeated_parameter(&self) -> bool {
        let is_repeated = |(index, (name, _)): (usize, &(String, String))| {
            self.0[..index].iter().any(|(earlier, _)| earlier == name)
        };
        self.0.iter().enumerate().any(is_repeated)
    }
}

/// Returns the tenant of a path of the token endpoint.
pub(super) fn token_tenant(path: &str) -> Option<&str> {
    let tenant = path.strip_prefix('/')?.strip_suffix("/oauth2/v2.0/token")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

/// Returns the tenant of a path of the discovery document.
pub(super) fn discovery_tenant(path: &str) -> Option<&str> {
    let tenant = path.strip_prefix('/')?;
    let tenant = tenant.strip_suffix("/v2.0/.well-known/openid-configuration")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

/// Returns the discovery document, whose URLs have the host of the request.
pub(super) fn discovery(request: &Request<Bytes>, tenant: &str) -> Response<Body> {
    if tenant != FakeEntra::TENANT_ID {
        return error(EntraError::UnknownTenant, &Form(Vec::new()), tenant);
    }
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = format!("http://{host}/{tenant}");
    json_response(
        StatusCode::OK,
        &json!({
            "token_endpoint": format!("{url}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "jwks_uri": format!("{url}/discovery/v2.0/keys"),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": format!("{url}/v2.0"),
            "authorization_endpoint": format!("{url}/oauth2/v2.0/authorize"),
        }),
    )
}

/// Checks a token request, except for the signature of its assertion. Returns the response if it is rejected.
pub(super) fn check(
    request: &Request<Bytes>,
    form: &Form,
    tenant: &str,
    credential: Option<&FederatedCredential>,
    resources: &[Resource],
    now: SystemTime,
) -> Result<AccessTokenRequest, Box<Response<Body>>> {
    let reject = |rejection| Err(Box::new(error(rejection, form, tenant)));
    let invalid = |code, text: String| {
        let status = StatusCode::BAD_REQUEST;
        Err(Box::new(error_response(
            status,
            "invalid_request",
            code,
            &text,
        )))
    };
    if request.method() != Method::POST {
        let method = request.method();
        let text = format!(
            "The endpoint only accepts POST, OPTIONS requests. Received a {method} request."
        );
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut response = error_response(status, "invalid_request", 900_561, &text);
        let allow = HeaderValue::from_static("POST, OPTIONS");
        response.headers_mut().insert(ALLOW, allow);
        return Err(Box::new(response));
    }
    if tenant != FakeEntra::TENANT_ID {
        return reject(EntraError::UnknownTenant);
    }
    let require = |name: &str| {
        form.get(name).ok_or_else(|| {
            let text = format!("The request body must contain the following parameter: '{name}'.");
            let status = StatusCode::BAD_REQUEST;
            Box::new(error_response(status, "invalid_request", 900_144, &text))
        })
    };
    let grant = require("grant_type")?;
    if form.has_repeated_parameter() {
        return invalid(
            9_002_313,
            "Invalid request. Request is malformed or invalid.".to_owned(),
        );
    }
    if grant != CLIENT_CREDENTIALS {
        let text = format!("The app requested an unsupported grant type '{grant}'.");
        let status = StatusCode::BAD_REQUEST;
        let response = error_response(status, "unsupported_grant_type", 70_003, &text);
        return Err(Box::new(response));
    }
    if require("client_id")? != FakeEntra::CLIENT_ID {
        return reject(EntraError::UnknownApplication);
    }
    let scope = require("scope")?;
    let mut scopes = scope.split(' ').filter(|scope| !scope.is_empty());
    let resource = match (scopes.next(), scopes.next()) {
        (_, Some(_)) => return reject(EntraError::SeveralResources),
        (first, None) => first.and_then(|scope| scope.strip_suffix(DEFAULT)),
    };
    let Some(resource) = resource else {
        return reject(EntraError::InvalidScope);
    };
    let mut known = resources.iter();
    let Some(resource) = known.find(|known| known.uri == resource) else {
        return reject(EntraError::UnknownResource);
    };
    if form.get("client_secret").is_some() {
        return reject(EntraError::InvalidClientSecret);
    }
    let Some(assertion) = form.get("client_assertion") else {
        return reject(EntraError::MissingCredential);
    };
    if require("client_assertion_type")? != JWT_BEARER {
        return invalid(
            9_002_313,
            "Invalid request. Request is malformed or invalid.".to_owned(),
        );
    }
    if let Err(rejection) = check_assertion(assertion, credential, now) {
        return reject(rejection);
    }
    Ok(AccessTokenRequest {
        resource: resource.clone(),
    })
}

/// Checks the claims of an assertion.
fn check_assertion(
    assertion: &str,
    credential: Option<&FederatedCredential>,
    now: SystemTime,
) -> Result<(), EntraError> {
    let claims = parse(assertion).ok_or(EntraError::MalformedAssertion)?;
    let Some(credential) = credential else {
        return Err(EntraError::NoMatchingCredential);
    };
    if claims.iss != credential.issuer {
        return Err(EntraError::NoMatchingIssuer);
    }
    let has_audience = match &claims.aud {
        None => false,
        Some(Audience::One(audience)) => audience == FakeEntra::AUDIENCE,
        Some(Audience::Several(audiences)) => audiences
            .iter()
            .any(|audience| audience == FakeEntra::AUDIENCE),
    };
    if !has_audience {
        return Err(EntraError::NoMatchingAudience);
    }
    if claims.sub != credential.subject {
        return Err(if claims.sub.eq_ignore_ascii_case(&credential.subject) {
            EntraError::SubjectInOtherCase
        } else {
            EntraError::NoMatchingSubject
        });
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs_f64();
    let is_valid_now = claims.exp.is_some_and(|expiry| now < expiry)
        && claims.nbf.is_none_or(|not_before| not_before <= now);
    if !is_valid_now {
        return Err(EntraError::AssertionNotValidNow);
    }
    Ok(())
}

/// Returns the claims of a JWT, or `None` if it is malformed.
fn parse(assertion: &str) -> Option<Assertion> {
    let parts: Vec<_> = assertion.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return None;
    };
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    serde_json::from_slice::<serde_json::Map<String, Value>>(&header).ok()?;
    URL_SAFE_NO_PAD.decode(signature).ok()?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Returns the response that rejects a request.
pub(super) fn error(rejection: EntraError, form: &Form, tenant: &str) -> Response<Body> {
    let assertion = form.get("client_assertion").and_then(parse);
    let claim = |claim: fn(&Assertion) -> String| assertion.as_ref().map(claim).unwrap_or_default();
    let (issuer, subject) = (
        claim(|claims| claims.iss.clone()),
        claim(|claims| claims.sub.clone()),
    );
    let audience = claim(|claims| match &claims.aud {
        None => String::new(),
        Some(Audience::One(audience)) => audience.clone(),
        Some(Audience::Several(audiences)) => audiences.join(","),
    });
    let parameter = |name| form.get(name).unwrap_or_default();
    let (client, scope) = (parameter("client_id"), parameter("scope"));
    let no_match = "No matching federated identity record found for presented assertion";
    let check = "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. \
                 https://learn.microsoft.com/entra/workload-id/workload-identity-federation";
    let installed = "This can happen if the application has not been installed by the administrator of the tenant or consented to \
                     by any user in the tenant.";
    let (status, code, text) = match rejection {
        EntraError::UnknownTenant => (
            400,
            90_002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct \
                 cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the \
                 tenant."
            ),
        ),
        EntraError::UnknownApplication => (
            400,
            700_016,
            format!(
                "Application with identifier '{client}' was not found in the directory 'Example'. {installed} You may have sent \
                 your authentication request to the wrong tenant."
            ),
        ),
        EntraError::NoMatchingIssuer => {
            (401, 700_211, format!("{no_match} issuer '{issuer}'. {check}"))
        }
        EntraError::NoMatchingAudience => {
            (401, 700_212, format!("{no_match} audience '{audience}'. {check}"))
        }
        EntraError::NoMatchingSubject => {
            (401, 700_213, format!("{no_match} subject '{subject}'. {check}"))
        }
        EntraError::SubjectInOtherCase => (
            401,
            7_002_138,
            format!(
                "{no_match} subject '{subject}'. The subject matches with case-insensitive comparison, but not with \
                 case-sensitive comparison. {check}"
            ),
        ),
        EntraError::NoMatchingCredential => (
            401,
            70_021,
            format!(
                "{no_match}. Assertion Issuer: '{issuer}'. Assertion Subject: '{subject}'. Assertion Audience: '{audience}'. {check}"
            ),
        ),
        EntraError::AssertionNotValidNow => (
            401,
            700_024,
            format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry time of \
                 assertion {}. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
                format_timestamp(SystemTime::now()),
                claimed_time(assertion.as_ref().and_then(|claims| claims.nbf)),
                claimed_time(assertion.as_ref().and_then(|claims| claims.exp)),
            ),
        ),
        EntraError::InvalidSignature => (
            401,
            700_027,
            "Client assertion failed signature validation.".to_owned(),
        ),
        EntraError::MalformedAssertion => {
            (400, 50_027, "JWT token is invalid or malformed.".to_owned())
        }
        EntraError::InvalidClientSecret => (
            401,
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the \
                 client secret ID, for a secret added to app '{client}'."
            ),
        ),
        EntraError::MissingCredential => (
            401,
            7_000_216,
            "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.".to_owned(),
        ),
        EntraError::PublicClient => (
            401,
            700_025,
            "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.".to_owned(),
        ),
        EntraError::DisabledApplication => (
            400,
            7_000_112,
            format!("Application '{client}'(Example) is disabled."),
        ),
        EntraError::UnknownResource => {
            let resource = scope.strip_suffix(DEFAULT).unwrap_or(scope);
            (
                400,
                500_011,
                format!(
                    "The resource principal named {resource} was not found in the tenant named Example. {installed} You might \
                     have sent your authentication request to the wrong tenant."
                ),
            )
        }
        EntraError::NoRoleAssigned => {
            let resource = scope.strip_suffix(DEFAULT).unwrap_or(scope);
            (
                400,
                501_051,
                format!("Application '{client}'(Example) is not assigned to a role for the application '{resource}'(Example)."),
            )
        }
        EntraError::InvalidScope => (
            400,
            1_002_012,
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with /.default \
                 suffixed to the resource identifier (application ID URI)."
            ),
        ),
        EntraError::SeveralResources => (
            400,
            28_000,
            format!(
                "Provided value for the input parameter scope is not valid because it contains more than one resource. Scope \
                 {scope} is not valid."
            ),
        ),
        EntraError::BlockedByPolicy => (
            400,
            53_003,
            "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.".to_owned(),
        ),
        EntraError::TemporaryError => {
            (503, 90_033, "A transient error has occurred. Please try again.".to_owned())
        }
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    error_response(status, oauth_error(rejection), code, &text)
}

/// Returns the time in a claim as text, or that of the epoch if there is no such claim.
fn claimed_time(seconds: Option<f64>) -> String {
    // The first second of the year 10000.
    const LIMIT: f64 = 253_402_300_800.0;
    let seconds = seconds.filter(|seconds| *seconds < LIMIT);
    let since_epoch = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = SystemTime::UNIX_EPOCH.checked_add(since_epoch.unwrap_or_default());
    format_timestamp(time.unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Returns the value of `error`.
fn oauth_error(rejection: EntraError) -> &'static str {
    match rejection {
        EntraError::UnknownTenant | EntraError::MalformedAssertion => "invalid_request",
        EntraError::UnknownApplication | EntraError::DisabledApplication => "unauthorized_client",
        EntraError::UnknownResource => "invalid_resource",
        EntraError::InvalidScope | EntraError::SeveralResources => "invalid_scope",
        EntraError::NoRoleAssigned | EntraError::BlockedByPolicy => "invalid_grant",
        EntraError::TemporaryError => "temporarily_unavailable",
        _ => "invalid_client",
    }
}

/// Returns the response to too many requests.
pub(super) fn too_many_requests() -> Response<Body> {
    let text = "The server received too many requests. Please try again later.";
    let status = StatusCode::TOO_MANY_REQUESTS;
    error_response(status, "temporarily_unavailable", 90_055, text)
}

/// Returns a rejection whose description contains the assertion.
pub(super) fn quoted(assertion: &str) -> Response<Body> {
    let text = format!("The assertion '{assertion}' is invalid.");
    error_response(StatusCode::UNAUTHORIZED, "invalid_client", 700_027, &text)
}

fn error_response(status: StatusCode, error: &str, code: u32, text: &str) -> Response<Body> {
    let timestamp = format_timestamp(SystemTime::now()).replace('T', " ");
    let description = format!(
        "AADSTS{code}: {text} Trace ID: {TRACE_ID} Correlation ID: {CORRELATION_ID} Timestamp: {timestamp}"
    );
    json_response(
        status,
        &json!({
            "error": error,
            "error_description": description,
            "error_codes": [code],
            "timestamp": timestamp,
            "trace_id": TRACE_ID,
            "correlation_id": CORRELATION_ID,
            "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
        }),
    )
}

/// Returns the response with an access token, or without one.
pub(super) fn success(token: Option<&str>, token_type: &str, lifetime: Duration) -> Response<Body> {
    let expires_in = lifetime.as_secs().saturating_sub(1);
    let mut body = json!({
        "token_type": token_type,
        "expires_in": expires_in,
        "ext_expires_in": expires_in,
    });
    if let Some(token) = token {
        body["access_token"] = json!(token);
    }
    json_response(StatusCode::OK, &body)
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response =
        http_server::text(status, "application/json; charset=utf-8", body.to_string());
    let headers = response.headers_mut();
    let cache_control = HeaderValue::from_static("no-store, no-cache");
    headers.insert(CACHE_CONTROL, cache_control);
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// Returns a token with the claims of real access tokens. Its signature has the length of a valid one, but is not valid.
/// `count` makes it differ from other tokens of the same second.
pub(super) fn access_token(request: &AccessTokenRequest, lifetime: Duration, count: u64) -> String {
    let (tenant, client) = (FakeEntra::TENANT_ID, FakeEntra::CLIENT_ID);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let issued = now.saturating_sub(BACKDATED);
    let mut claims = json!({
        "iat": issued,
        "nbf": issued,
        "exp": now.saturating_add(lifetime.as_secs()),
        "oid": OBJECT_ID,
        "sub": OBJECT_ID,
        "tid": tenant,
        "uti": format!("fake{count}"),
    });
    match request.resource.version {
        EntraTokenVersion::V1 => {
            let issuer = format!("https://sts.windows.net/{tenant}/");
            claims["aud"] = json!(request.resource.uri);
            claims["iss"] = json!(issuer);
            claims["idp"] = json!(issuer);
            claims["appid"] = json!(client);
            claims["appidacr"] = json!("2");
            claims["ver"] = json!("1.0");
        }
        EntraTokenVersion::V2 => {
            claims["aud"] = json!(RESOURCE_ID);
            claims["iss"] = json!(format!("https://login.microsoftonline.com/{tenant}/v2.0"));
            claims["azp"] = json!(client);
            claims["azpacr"] = json!("2");
            claims["ver"] = json!("2.0");
        }
    }
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "fake" });
    let mut signature = [0xa5; SIGNATURE_BYTES];
    signature[..8].copy_from_slice(&count.to_be_bytes());
    let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

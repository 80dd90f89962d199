//! The responses of the fake TokenRequest API, as a function of the request and the cluster.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::cluster::{Caller, Cluster, ISSUER};
use super::{IssuedTokenRequest, TokenRequestFault};
use crate::testing::http_server::{Body, text};
use crate::timestamp::format_timestamp;

const KIND: &str = "TokenRequest";
const VERSION: &str = "authentication.k8s.io/v1";
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// The headers that name the flow-control rules of a request. Responses with 401 lack them.
const FLOW_CONTROL: [(HeaderName, HeaderValue); 2] = [
    (
        HeaderName::from_static("x-kubernetes-pf-flowschema-uid"),
        HeaderValue::from_static("338723ee-4eb6-4739-b399-c5f71776e0f5"),
    ),
    (
        HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"),
        HeaderValue::from_static("363fd413-a186-4ead-81f7-efe83fe53ab4"),
    ),
];

/// A request that has passed all checks.
pub(super) struct Granted {
    namespace: String,
    account: String,
    audiences: Vec<String>,
    seconds: u64,
    reference: Value,
    claims: Value,
    caller: String,
}

impl Granted {
    /// Returns the token for the records of the server.
    pub(super) fn record(&self) -> IssuedTokenRequest {
        IssuedTokenRequest {
            namespace: self.namespace.clone(),
            service_account: self.account.clone(),
            audiences: self.audiences.clone(),
            expiration_seconds: self.seconds,
            pod: self.reference["name"].as_str().map(str::to_owned),
            requested_by: self.caller.clone(),
        }
    }
}

/// Returns the bearer token of the first `Authorization` header. The scheme is matched in any case, and one space follows it.
pub(super) fn bearer_token(request: &Request<Bytes>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let is_token = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    (is_token && !token.starts_with(' ')).then_some(token)
}

/// Checks a request of an authenticated caller.
///
/// # Errors
///
/// Returns the response if the request is rejected.
pub(super) fn check(
    request: &Request<Bytes>,
    caller: &Caller,
    cluster: &Cluster,
) -> Result<Granted, Box<Response<Body>>> {
    let segments: Vec<_> = request.uri().path().split('/').collect();
    let [
        "",
        "api",
        "v1",
        "namespaces",
        namespace,
        "serviceaccounts",
        account,
        "token",
    ] = segments.as_slice()
    else {
        return Err(Box::new(unknown_path(request, caller)));
    };
    let method = request.method();
    // Each method has its own verb, and the roles grant only `create`.
    if method != Method::POST || !cluster.may_create(caller, namespace, account) {
        return Err(Box::new(forbidden(method, caller, namespace, account)));
    }
    if !accepts_json(request) {
        return Err(Box::new(failure(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "406: Not Acceptable",
            Some(json!({})),
        )));
    }
    let spec = parse(request.body()).map_err(|message| bad_request(&message))?;
    let seconds = requested_seconds(&spec)?;
    if !cluster.has_namespace(namespace) {
        return Err(Box::new(not_found("namespaces", namespace)));
    }
    if cluster.account(namespace, account).is_none() {
        return Err(Box::new(not_found("serviceaccounts", account)));
    }
    let pod = bound_pod(&spec["boundObjectRef"], namespace, account, cluster)?;
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences = vec![ISSUER.to_owned()];
    }
    let max = cluster.max_expiration.map_or(u64::MAX, |max| max.as_secs());
    let seconds = seconds.min(max);
    let lifetime = Duration::from_secs(seconds);
    let claims = cluster.claims(namespace, account, pod.as_deref(), &audiences, lifetime);
    Ok(Granted {
        namespace: (*namespace).to_owned(),
        account: (*account).to_owned(),
        audiences,
        seconds,
        reference: spec["boundObjectRef"].clone(),
        claims,
        caller: caller.name(),
    })
}

/// Returns the response with the token, changed by a fault.
pub(super) fn issue(
    granted: &Granted,
    fault: Option<&TokenRequestFault>,
    sign: impl Fn(&Value) -> String,
) -> Response<Body> {
    let mut claims = granted.claims.clone();
    let lifetime = Duration::from_secs(granted.seconds);
    let mut expires_at = SystemTime::now() + lifetime;
    match fault {
        Some(TokenRequestFault::WrongAudience) => claims["aud"] = json!(["https://other.example"]),
        Some(TokenRequestFault::ExpiredToken) => {
            let start = claims["iat"].as_u64().unwrap_or_default();
            claims["exp"] = (start - 1).into();
            expires_at = SystemTime::now() - Duration::from_secs(1);
        }
        _ => {}
    }
    let token = match fault {
        Some(TokenRequestFault::Token(token)) => token.clone(),
        _ => sign(&claims),
    };
    let mut status = json!({
        "token": token,
        "expirationTimestamp": format_timestamp(expires_at),
    });
    match fault {
        Some(TokenRequestFault::MissingTimestamp) => {
            status["expirationTimestamp"] = Value::Null;
        }
        Some(TokenRequestFault::Timestamp(text)) => {
            status["expirationTimestamp"] = text.as_str().into();
        }
        _ => {}
    }
    let mut object = json!({
        "kind": KIND,
        "apiVersion": VERSION,
        "metadata": { "creationTimestamp": null },
        "spec": {
            "audiences": granted.audiences,
            "expirationSeconds": granted.seconds,
            "boundObjectRef": granted.reference,
        },
        "status": status,
    });
    if fault == Some(&TokenRequestFault::MissingToken)
        && let Some(members) = object.as_object_mut()
    {
        members.remove("status");
    }
    body(StatusCode::CREATED, &object)
}

/// Parses a body, and returns its `spec`.
///
/// # Errors
///
/// Returns the message of the response.
fn parse(body: &[u8]) -> Result<Value, String> {
    let object: Value = serde_json::from_slice(body).map_err(|_| {
        format!(
            "the object provided is unrecognized (must be of type TokenRequest): couldn't get version/kind; json parse error: {}",
            match body {
                [] => "unexpected end of JSON input (<empty>)".to_owned(),
                [first, ..] => {
                    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
                    let first = char::from(*first);
                    format!("invalid character '{first}' looking for beginning of value ({hex})")
                }
            }
        )
    })?;
    let text = |member: &str, default: &str| match &object[member] {
        Value::String(text) if !text.is_empty() => text.clone(),
        _ => default.to_owned(),
    };
    let (kind, version) = (text("kind", KIND), text("apiVersion", VERSION));
    let short = version.rsplit('/').next().unwrap_or_default();
    let not_handled = |reason: &str| {
        Err(format!(
            "{kind} in version {short:?} cannot be handled as a {KIND}: {reason}"
        ))
    };
    if kind != KIND {
        return not_handled(&format!(
            "converting ({short}.{kind}) to (authentication.{KIND}): unknown conversion"
        ));
    }
    if version != VERSION {
        return not_handled(&format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ));
    }
    let spec = object["spec"].clone();
    let is_valid_audiences = match &spec["audiences"] {
        Value::Null => true,
        Value::Array(audiences) => audiences.iter().all(Value::is_string),
        _ => false,
    };
    if !is_valid_audiences {
        return not_handled("v1.TokenRequest.Spec: v1.TokenRequestSpec.Audiences: []string");
    }
    if !(spec["expirationSeconds"].is_null() || spec["expirationSeconds"].is_i64()) {
        return not_handled("v1.TokenRequest.Spec: v1.TokenRequestSpec.ExpirationSeconds");
    }
    Ok(spec)
}

/// Returns the requested lifetime in seconds.
fn requested_seconds(spec: &Value) -> Result<u64, Box<Response<Body>>> {
    let seconds = spec["expirationSeconds"].as_i64();
    let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
    let limit = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        MIN_SECONDS..=MAX_SECONDS => return Ok(seconds.unsigned_abs()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let message = format!("Invalid value: {seconds}: {limit}");
    Err(Box::new(failure(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Invalid",
        &format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: {message}"
        ),
        Some(json!({
            "group": "authentication.k8s.io",
            "kind": KIND,
            "causes": [{ "reason": "FieldValueInvalid", "message": message, "field": "spec.expirationSeconds" }],
        })),
    )))
}

/// Returns the name of the pod that a token is to be bound to.
fn bound_pod(
    reference: &Value,
    namespace: &str,
    account: &str,
    cluster: &Cluster,
) -> Result<Option<String>, Box<Response<Body>>> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |member: &str| reference[member].as_str().unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let version = text("apiVersion");
    if kind != "Pod" || !matches!(version, "" | "v1") {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let message = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
        return Err(Box::new(bad_request(&message)));
    }
    if name.is_empty() {
        return Err(Box::new(bad_request("Name parameter required.")));
    }
    let Some(pod) = cluster.pod(namespace, name) else {
        return Err(Box::new(not_found("pods", name)));
    };
    if pod.account != account {
        return Err(Box::new(bad_request(&format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        ))));
    }
    if !uid.is_empty() && uid != pod.uid {
        return Err(Box::new(failure(
            StatusCode::CONFLICT,
            "Conflict",
            &format!(
                "Operation cannot be fulfilled on Pod {name:?}: the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
            Some(json!({ "name": name, "kind": "Pod" })),
        )));
    }
    Ok(Some(name.to_owned()))
}

/// Returns whether the first `Accept` header allows JSON.
fn accepts_json(request: &Request<Bytes>) -> bool {
    let accept = request.headers().get(ACCEPT).map(HeaderValue::to_str);
    let accept = match accept {
        None | Some(Ok("")) => return true,
        Some(accept) => accept.unwrap_or_default(),
    };
    accept
        .split(',')
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| matches!(range, "*/*" | "application/*" | "application/json"))
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// Returns the verb of a method in the message of a 403.
fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

/// Returns the response to a request whose token is not valid.
pub(super) fn unauthorized() -> Box<Response<Body>> {
    let mut response = failure(
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
        "Unauthorized",
        None,
    );
    for (name, _) in &FLOW_CONTROL {
        response.headers_mut().remove(name);
    }
    Box::new(response)
}

fn forbidden(method: &Method, caller: &Caller, namespace: &str, account: &str) -> Response<Body> {
    with_nosniff(failure(
        StatusCode::FORBIDDEN,
        "Forbidden",
        &format!(
            "serviceaccounts {account:?} is forbidden: User {:?} cannot {} resource \"serviceaccounts/token\" in API group \"\" in the namespace {namespace:?}",
            caller.name(),
            verb(method)
        ),
        Some(json!({ "name": account, "kind": "serviceaccounts" })),
    ))
}

/// Returns the response to a service account that requests anything else.
fn unknown_path(request: &Request<Bytes>, caller: &Caller) -> Response<Body> {
    with_nosniff(failure(
        StatusCode::FORBIDDEN,
        "Forbidden",
        &format!(
            "forbidden: User {:?} cannot {} path {:?}",
            caller.name(),
            request.method().as_str().to_ascii_lowercase(),
            request.uri().path()
        ),
        Some(json!({})),
    ))
}

fn with_nosniff(mut response: Response<Body>) -> Response<Body> {
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn bad_request(message: &str) -> Response<Body> {
    failure(StatusCode::BAD_REQUEST, "BadRequest", message, None)
}

fn not_found(kind: &str, name: &str) -> Response<Body> {
    failure(
        StatusCode::NOT_FOUND,
        "NotFound",
        &format!("{kind} {name:?} not found"),
        Some(json!({ "name": name, "kind": kind })),
    )
}

/// Returns a response with a `Status`.
pub(super) fn failure(
    code: StatusCode,
    reason: &str,
    message: &str,
    details: Option<Value>,
) -> Response<Body> {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    if let Some(details) = details {
        status["details"] = details;
    }
    body(code, &status)
}

fn body(code: StatusCode, object: &Value) -> Response<Body> {
    // A `Value` always has a JSON form.
    let object = serde_json::to_string_pretty(object).unwrap_or_default();
    let mut response = text(code, "application/json", object);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.extend(FLOW_CONTROL);
    response
}

//! The grants that the fake token endpoint supports, and its tokens.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use serde_json::{Value, json};

use super::client::ClientPolicy;
use super::form::Form;
use super::{Rejection, Settings, TokenEndpointFault, TokenEndpointRequest, set_member};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const CLIENT_CREDENTIALS: &str = "client_credentials";

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The size in bytes of an RS256 signature by a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// Checks the parameters of a request from this client.
pub(super) async fn check(
    form: &Form,
    client_id: Option<String>,
    settings: &Settings,
) -> Result<TokenEndpointRequest, Rejection> {
    let grant_type = form.required("grant_type")?;
    let text = |name: &str| form.get(name).map(str::to_owned);
    let list = |name: &str| form.all(name).map(str::to_owned).collect();
    let request = TokenEndpointRequest {
        grant_type: grant_type.to_owned(),
        client_id,
        subject_token: text("subject_token"),
        subject_token_type: text("subject_token_type"),
        requested_token_type: text("requested_token_type"),
        audiences: list("audience"),
        resources: list("resource"),
        scope: text("scope"),
        other: form.unknown(),
    };
    match grant_type {
        TOKEN_EXCHANGE => check_exchange(&request, form, settings).await?,
        CLIENT_CREDENTIALS => {
            if !matches!(
                settings.client,
                ClientPolicy::Secret { .. } | ClientPolicy::Assertion { .. }
            ) {
                return Err(Rejection::new(
                    "unauthorized_client",
                    "client_credentials requires a client that authenticates",
                ));
            }
        }
        _ => {
            return Err(Rejection::new(
                "unsupported_grant_type",
                "the grant_type is not supported",
            ));
        }
    }
    let scopes = request.scope.as_deref().unwrap_or_default().split(' ');
    let allowed = settings.scopes.as_deref();
    for scope in scopes.filter(|scope| !scope.is_empty()) {
        if allowed.is_some_and(|allowed| !allowed.iter().any(|other| other == scope)) {
            return Err(Rejection::new(
                "invalid_scope",
                format!("the scope {scope} is not known"),
            ));
        }
    }
    Ok(request)
}

async fn check_exchange(
    request: &TokenEndpointRequest,
    form: &Form,
    settings: &Settings,
) -> Result<(), Rejection> {
    let subject_token = form.required("subject_token")?;
    let subject_token_type = form.required("subject_token_type")?;
    let actor = (form.get("actor_token"), form.get("actor_token_type"));
    match actor {
        (None, None) => {}
        (Some(_), Some(_)) => {
            return Err(Rejection::invalid_request("actor tokens are not supported"));
        }
        _ => {
            return Err(Rejection::invalid_request(
                "actor_token and actor_token_type require each other",
            ));
        }
    }
    for (name, found) in [
        ("subject_token_type", Some(subject_token_type)),
        (
            "requested_token_type",
            request.requested_token_type.as_deref(),
        ),
    ] {
        if found.is_some_and(|found| ![ACCESS_TOKEN, ID_TOKEN, JWT].contains(&found)) {
            return Err(Rejection::invalid_request(format!(
                "the {name} is not supported"
            )));
        }
    }
    for resource in &request.resources {
        let is_uri = Url::parse(resource).is_ok_and(|url| url.fragment().is_none());
        if !is_uri {
            return Err(Rejection::new(
                "invalid_target",
                "the resource is not an absolute URI without a fragment",
            ));
        }
    }
    for target in request.audiences.iter().chain(&request.resources) {
        let allowed = settings.targets.as_ref();
        if allowed.is_some_and(|allowed| !allowed.contains(target)) {
            return Err(Rejection::new(
                "invalid_target",
                format!("the target {target} is not known"),
            ));
        }
    }
    (settings.verify_subject)(subject_token.to_owned())
        .await
        .map_err(|reason| {
            let description = format!("the subject token is not accepted: {reason}");
            Rejection::new(&settings.subject_error, description)
        })
}

/// A token that was issued for a request.
pub(super) struct Issued(Value);

impl Issued {
    pub(super) fn new(request: &TokenEndpointRequest, token: String, lifetime: Duration) -> Self {
        let mut response = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": lifetime.as_secs(),
        });
        if request.grant_type == TOKEN_EXCHANGE {
            let requested = request.requested_token_type.as_deref();
            let issued = requested.unwrap_or(ACCESS_TOKEN);
            set_member(&mut response, "issued_token_type", Some(json!(issued)));
            if issued == ID_TOKEN {
                set_member(&mut response, "token_type", Some(json!("N_A")));
            }
        }
        if let Some(scope) = &request.scope {
            set_member(&mut response, "scope", Some(json!(scope)));
        }
        Self(response)
    }

    /// Returns the body of the response, with the fault.
    pub(super) fn into_json(mut self, fault: Option<&TokenEndpointFault>) -> Value {
        use TokenEndpointFault as Fault;
        let (name, value) = match fault {
            Some(Fault::MissingAccessToken) => ("access_token", None),
            Some(Fault::AccessToken(token)) => ("access_token", Some(json!(token))),
            Some(Fault::MissingTokenType) => ("token_type", None),
            Some(Fault::TokenType(kind)) => ("token_type", Some(json!(kind))),
            Some(Fault::MissingIssuedTokenType) => ("issued_token_type", None),
            Some(Fault::IssuedTokenType(kind)) => ("issued_token_type", Some(json!(kind))),
            Some(Fault::MissingExpiresIn) => ("expires_in", None),
            Some(Fault::TextInExpiresIn(text)) => ("expires_in", Some(json!(text))),
            Some(Fault::ExpiresIn(seconds)) => ("expires_in", Some(json!(seconds))),
            _ => return self.0,
        };
        set_member(&mut self.0, name, value);
        self.0
    }
}

/// Returns a token with the claims of an accepted request. Its signature has the length of a valid one, but is not valid.
/// `number` makes it differ from other tokens of the same second.
pub(super) fn token(
    request: &TokenEndpointRequest,
    host: &str,
    lifetime: Duration,
    number: u64,
) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let targets: Vec<_> = request.audiences.iter().chain(&request.resources).collect();
    let mut claims = json!({
        "iss": format!("http://{host}"),
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
        "jti": number.to_string(),
    });
    let subject = request.subject_token.as_deref().and_then(subject_of);
    let optional = [
        (
            "sub",
            subject.or_else(|| request.client_id.clone().map(Value::from)),
        ),
        ("aud", (!targets.is_empty()).then(|| json!(targets))),
        ("client_id", request.client_id.clone().map(Value::from)),
        ("scope", request.scope.clone().map(Value::from)),
    ];
    for (name, value) in optional {
        if value.is_some() {
            set_member(&mut claims, name, value);
        }
    }
    let header = json!({ "alg": "RS256", "kid": "fake", "typ": "JWT" });
    let mut signature = [0xa5; SIGNATURE_BYTES];
    signature[..8].copy_from_slice(&number.to_be_bytes());
    let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!(
        "{}.{}.{}",
        encode(header),
        encode(claims),
        URL_SAFE_NO_PAD.encode(signature)
    )
}

/// Returns the claim `sub` of a JWT.
fn subject_of(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("sub").filter(|sub| sub.is_string()).cloned()
}

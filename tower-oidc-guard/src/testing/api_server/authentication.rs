//! Authentication of requests and tokens by the fake API server.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value, json};

use super::Inner;
use crate::jose::algorithm::{Algorithm, Algorithms};
use crate::jose::key_set::KeySet;
use crate::jose::verify_jws;
use crate::testing::issuer_state::IssuerState;

/// A user of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    Anonymous,
    Admin,
    ServiceAccount {
        namespace: String,
        name: String,
        uid: String,
    },
}

impl User {
    pub(super) fn is_admin(&self) -> bool {
        *self == Self::Admin
    }

    pub(super) fn is_service_account(&self) -> bool {
        matches!(self, Self::ServiceAccount { .. })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Anonymous => "system:anonymous".to_owned(),
            Self::Admin => "admin".to_owned(),
            Self::ServiceAccount {
                namespace, name, ..
            } => format!("system:serviceaccount:{namespace}:{name}"),
        }
    }
}

/// Returns the bearer token of the first `Authorization` header; the scheme is matched in any case.
pub(super) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Inner {
    /// Returns the user of a token that is for one of these audiences, or the reason why the token is not valid.
    pub(super) fn authenticate(
        &self,
        keys: &IssuerState,
        token: &str,
        audiences: &[String],
    ) -> Result<User, String> {
        if let Some(user) = self.accounts.accepted(token) {
            return Ok(user);
        }
        let claims = self.verified_claims(keys, token)?;
        self.check(&claims, audiences)
    }

    /// Returns the `status` of a TokenReview.
    pub(super) fn review(
        &self,
        keys: &IssuerState,
        token: &str,
        audiences: &[String],
    ) -> Result<Value, String> {
        let (claims, user) = match self.accounts.accepted(token) {
            Some(user) => {
                let claims = unverified_claims(token).unwrap_or_default();
                check_audience(&claims, audiences)?;
                (claims, user)
            }
            None => {
                let claims = self.verified_claims(keys, token)?;
                let user = self.check(&claims, audiences)?;
                (claims, user)
            }
        };
        let User::ServiceAccount { namespace, uid, .. } = &user else {
            return Err("invalid bearer token".to_owned());
        };
        let held = token_audiences(&claims);
        let both: Vec<_> = held.iter().filter(|one| audiences.contains(one)).collect();
        Ok(json!({
            "authenticated": true,
            "user": {
                "username": user.name(),
                "uid": uid,
                "groups": [
                    "system:serviceaccounts",
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated",
                ],
                "extra": extra(&claims),
            },
            "audiences": both,
        }))
    }

    /// Verifies the signature and reads the claims. A token of another issuer is refused without further details.
    fn verified_claims(&self, keys: &IssuerState, token: &str) -> Result<Value, String> {
        let unverified = unverified_claims(token).ok_or("invalid bearer token")?;
        let is_own = |issuer: &str| self.issuers.iter().any(|own| own == issuer);
        if !unverified["iss"].as_str().is_some_and(is_own) {
            return Err("invalid bearer token".to_owned());
        }
        let algorithms: Algorithms = Algorithm::ALL.into_iter().collect();
        let key_set = keys.key_set().to_string();
        let key_set =
            KeySet::from_json(key_set.as_bytes(), algorithms).map_err(|error| error.to_string())?;
        let payload = verify_jws(token.as_bytes(), &key_set).map_err(|_| {
            "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]".to_owned()
        })?;
        serde_json::from_slice(&payload).map_err(|error| error.to_string())
    }

    fn check(&self, claims: &Value, audiences: &[String]) -> Result<User, String> {
        let now = self.clock.since_epoch().as_secs();
        if claims["exp"].as_u64().is_none_or(|expiry| expiry <= now) {
            return Err("[invalid bearer token, service account token has expired]".to_owned());
        }
        check_audience(claims, audiences)?;
        let account = &claims["kubernetes.io"];
        let namespace = account["namespace"].as_str().unwrap_or_default();
        let name = account["serviceaccount"]["name"]
            .as_str()
            .unwrap_or_default();
        let Some(uid) = self.accounts.uid(namespace, name) else {
            return Err(format!(
                "[invalid bearer token, serviceaccounts {name:?} not found]"
            ));
        };
        // The node of a token that is bound to a pod is only information.
        let bound_to = account["pod"]["uid"].as_str();
        let bound_to = bound_to.or_else(|| account["node"]["uid"].as_str());
        let is_deleted = bound_to.is_some_and(|uid| self.accounts.is_deleted(uid));
        if account["serviceaccount"]["uid"] != *uid || is_deleted {
            return Err(
                "[invalid bearer token, service account token has been invalidated]".to_owned(),
            );
        }
        Ok(User::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid,
        })
    }
}

fn check_audience(claims: &Value, audiences: &[String]) -> Result<(), String> {
    let held = token_audiences(claims);
    if held.iter().any(|one| audiences.contains(one)) {
        return Ok(());
    }
    Err(format!(
        "[invalid bearer token, token audiences {held:?} is invalid for the target audiences {audiences:?}]"
    ))
}

/// Returns what a TokenReview tells beside the service account: the ID of the token, and the pod and node that it is bound to.
fn extra(claims: &Value) -> Value {
    let mut extra = Map::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            extra.insert(
                format!("authentication.kubernetes.io/{name}"),
                json!([value]),
            );
        }
    };
    let token_id = claims["jti"].as_str();
    add("credential-id", token_id.map(|id| format!("JTI={id}")));
    for object in ["node", "pod"] {
        for member in ["name", "uid"] {
            let value = claims["kubernetes.io"][object][member].as_str();
            add(&format!("{object}-{member}"), value.map(str::to_owned));
        }
    }
    Value::Object(extra)
}

fn unverified_claims(token: &str) -> Option<Value> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn token_audiences(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        many => super::strings(many),
    }
}

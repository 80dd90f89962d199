//! The parameters of a request to a token endpoint.

use super::Rejection;

/// The parameters that may be included several times (RFC 8693, section 2.1).
const REPEATABLE: [&str; 2] = ["audience", "resource"];

/// The parameters that RFC 6749, RFC 7523 and RFC 8693 define for the grants of this fake.
const KNOWN: [&str; 13] = [
    "grant_type",
    "resource",
    "audience",
    "scope",
    "requested_token_type",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
];

/// The parameters of a request, without those that have no value.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Parses the body of a request. Returns an error if a parameter other than `audience` and `resource` is included twice.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Rejection> {
        let parameters: Vec<(String, String)> = form_urlencoded::parse(body)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        for (index, (name, _)) in parameters.iter().enumerate() {
            let is_repeated = parameters[..index].iter().any(|(other, _)| other == name);
            if is_repeated && !REPEATABLE.contains(&name.as_str()) {
                return Err(Rejection::invalid_request(format!(
                    "the parameter {name} is included more than once"
                )));
            }
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Rejection> {
        self.get(name)
            .ok_or_else(|| Rejection::invalid_request(format!("the parameter {name} is missing")))
    }

    /// Returns every value of a parameter.
    pub(super) fn all<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f str> {
        let values = self.0.iter().filter(move |(other, _)| other == name);
        values.map(|(_, value)| value.as_str())
    }

    /// Returns the names and values of the parameters that the RFCs do not define.
    pub(super) fn unknown(&self) -> Vec<(String, String)> {
        let is_unknown = |(name, _): &&(String, String)| !KNOWN.contains(&name.as_str());
        self.0.iter().filter(is_unknown).cloned().collect()
    }
}

//! Advice on errors of Microsoft Entra ID.

/// Returns what to do about an error, by the code at the beginning of its description: `AADSTS700213: …`.
///
/// The codes are documented in the [reference of error codes][codes]; those about federated credentials only in parts.
///
/// [codes]: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
pub(super) fn advice(description: &str) -> Option<&'static str> {
    Some(match code(description)? {
        // The numbers of 7 digits are more specific forms of those of 6 digits.
        70_021 | 700_211..=700_213 | 7_002_110..=7_002_139 => {
            "add a federated identity credential to the application or managed identity of AZURE_CLIENT_ID, whose issuer, subject \
             and audience equal `iss`, `sub` and `aud` of the token in AZURE_FEDERATED_TOKEN_FILE, with regard to upper and lower \
             case (the subject of a Kubernetes service account is system:serviceaccount:NAMESPACE:NAME, and the audience \
             api://AzureADTokenExchange); a new one takes effect after some minutes"
        }
        700_016 | 700_038 => {
            "check that AZURE_CLIENT_ID is the client ID of an application or managed identity in the tenant AZURE_TENANT_ID"
        }
        90_002 | 900_021 | 900_023 => {
            "check AZURE_TENANT_ID, and that AZURE_AUTHORITY_HOST is that of the tenant's cloud"
        }
        7_000_229 => {
            "create the service principal of the application in the tenant, for example with `az ad sp create --id CLIENT_ID`"
        }
        700_024 => {
            "the token in AZURE_FEDERATED_TOKEN_FILE has expired or is not valid yet: check that the kubelet replaces the file, and \
             the clock of the machine"
        }
        50_013 | 700_027 | 7_000_271..=7_000_279 => {
            "the signature of the token in AZURE_FEDERATED_TOKEN_FILE could not be verified: check that the keys of its issuer are \
             published, and that the file contains the token of this cluster"
        }
        50_166 | 501_661 => {
            "Entra could not fetch the discovery document or the keys of the token's issuer: they have to be reachable from the \
             internet, over https"
        }
        50_027 => {
            "the token in AZURE_FEDERATED_TOKEN_FILE is not a JWT that Entra can read: check the file"
        }
        7_000_215 | 7_000_216 | 7_000_218 | 7_000_222 => {
            "Entra expected or found a client secret, but this client sends the token in AZURE_FEDERATED_TOKEN_FILE instead: check \
             that AZURE_AUTHORITY_HOST is that of Entra, and that nothing between changes the request"
        }
        700_025 => {
            "the application is a public client: turn off `Allow public client flows` (`isFallbackPublicClient`)"
        }
        7_000_112 => "enable the application's service principal in the tenant",
        700_222 | 700_223 | 700_238 => {
            "the tenant does not accept federated credentials of this issuer: check its policies for workload identities"
        }
        500_011 | 650_057 => {
            "check the scope: it has to be the application ID URI (or client ID) of an application with a service principal in the \
             tenant"
        }
        501_051 => {
            "assign the application a role of the resource, or turn off `Assignment required` for the resource"
        }
        28_000 | 70_011 | 1_002_012 => {
            "expected a scope of one resource: its application ID URI or client ID"
        }
        53_003 | 530_035 => "check the conditional access policies for workload identities",
        _ => return None,
    })
}

/// Returns whether an error may disappear without a change: a credential that was added a moment ago, a token that the kubelet is
/// about to replace, or keys of its issuer that could not be fetched or are being replaced.
pub(super) fn is_temporary(description: &str) -> bool {
    matches!(
        code(description),
        Some(
            70_021
            | 700_211..=700_213
            | 7_002_110..=7_002_139
            | 700_024
            | 50_013
            | 700_027
            | 7_000_271..=7_000_279
            | 50_166
            | 501_661,
        )
    )
}

/// Returns the number in `AADSTS700213: …`.
fn code(description: &str) -> Option<u32> {
    let (_, rest) = description.split_once("AADSTS")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_number_in_the_description() {
        for (description, expected) in [
            ("AADSTS700213: No matching record", Some(700_213)),
            ("Error: AADSTS90002: Tenant", Some(90_002)),
            ("AADSTS90002", Some(90_002)),
            ("AADSTS: none", None),
            ("AADSTS99999999999999: too large", None),
            ("Tenant 90002 not found", None),
        ] {
            assert_eq!(code(description), expected, "{description}");
        }
        assert_eq!(advice("AADSTS1: unknown"), None);
    }
}

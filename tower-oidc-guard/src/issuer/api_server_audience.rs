//! Recognizes the audiences of Kubernetes API servers.
//!
//! The token that Kubernetes mounts into every pod has the API server as its audience. A guard that accepts this audience
//! accepts every pod, and can itself use its callers' tokens against the API server.

/// Additional audiences that distributions configure for their API servers.
const DISTRIBUTION_AUDIENCES: [&str; 2] = ["k3s", "rke2"];

/// Returns whether an audience is commonly an API server's own, or equals one of these issuers: by default, the only audience
/// of an API server is its issuer.
pub(crate) fn is_api_server_audience<'i>(
    audience: &str,
    issuers: impl IntoIterator<Item = &'i str>,
) -> bool {
    let without_slash = |text: &'i str| text.trim_end_matches('/');
    let mut issuers = issuers.into_iter().map(without_slash);
    let own = audience.trim_end_matches('/');
    issuers.any(|issuer| !issuer.is_empty() && issuer == own)
        || DISTRIBUTION_AUDIENCES.contains(&audience)
        || is_api_server_host(host(own))
}

/// Returns an audience in lower case, without scheme and port.
fn host(audience: &str) -> String {
    let lower = audience.to_ascii_lowercase();
    let authority = lower
        .strip_prefix("https://")
        .or_else(|| lower.strip_prefix("http://"))
        .unwrap_or(&lower);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_end_matches('.').to_owned()
}

/// Returns whether a host is a name of the service `kubernetes` in the namespace `default`, in any cluster domain, or an API
/// server of AKS.
fn is_api_server_host(host: String) -> bool {
    let is_service = match host.strip_prefix("kubernetes") {
        Some("" | ".default" | ".default.svc") => true,
        Some(rest) => rest.starts_with(".default.svc.") && !rest.contains('/'),
        None => false,
    };
    is_service || host.ends_with(".azmk8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_api_server_name_is_recognized() {
        for audience in [
            "kubernetes",
            "https://kubernetes",
            "https://kubernetes.default",
            "kubernetes.default.svc",
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc/",
            "https://kubernetes.default.svc:443",
            "https://kubernetes.default.svc:443/",
            "kubernetes.default.svc:6443",
            "HTTPS://Kubernetes.Default.Svc",
            "http://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local",
            "https://kubernetes.default.svc.cluster.local.",
            "https://kubernetes.default.svc.corp.example:6443/",
            "k3s",
            "https://c-dns-1.hcp.westeurope.azmk8s.io:443",
            "https://id.example",
            "https://id.example/",
            "https://other.example",
        ] {
            let issuers = ["https://id.example", "https://other.example/", ""];
            assert!(is_api_server_audience(audience, issuers), "{audience}");
        }
    }

    #[test]
    fn audiences_of_other_services_are_not_recognized() {
        for audience in [
            "https://auth-server.example",
            "https://kubernetes.example",
            "https://kubernetes.default.example",
            "https://kubernetes.default.svcs",
            "https://kubernetes.shop.svc",
            "https://auth.default.svc.cluster.local",
            "https://kubernetes.default.svc/shop",
            "https://kubernetes.default.svc.cluster.local/shop",
            "https://id.example/shop",
            "kubernetes-shop",
            "api://AzureADTokenExchange",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "sts.amazonaws.com",
        ] {
            assert!(
                !is_api_server_audience(audience, ["https://id.example"]),
                "{audience}"
            );
        }
    }
}

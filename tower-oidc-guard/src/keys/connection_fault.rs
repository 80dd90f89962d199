//! Remedies for documents that cannot be fetched.

use std::io;

use super::fetch::DocumentServer;
use crate::text::{causes, with_causes};

/// Why an HTTP client received no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionFault {
    /// The proxy of the HTTP client could not be reached, or did not connect to the server.
    Proxy,
    /// The host name does not resolve.
    UnresolvedName,
    /// The connection was refused.
    Refused,
    /// There is no route to the server.
    Unreachable,
    /// The certificate is not signed by a CA that the client trusts.
    UnknownCa,
    /// The certificate is that of a CA, which may sign certificates and not identify a server.
    CaCertificate,
    /// The certificate is for another name.
    CertificateName,
    /// The certificate has expired, or is not valid yet.
    CertificateTime,
    /// The certificate is not accepted for another reason.
    Certificate,
    /// The response is not TLS.
    NotTls,
    /// No connection was established, or no response received, in time.
    Timeout,
}

impl ConnectionFault {
    /// Finds the fault that an error of the HTTP client reports. Returns `None` if it is none of these.
    ///
    /// The HTTP client has no public types for most of them, so its texts are compared. They can contain a name that the
    /// server chose, so the result is used for a hint only.
    pub(crate) fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let text = with_causes(error);
        let has = |part| text.contains(part);
        let is_io = |kinds: &[io::ErrorKind]| {
            let mut errors = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
            errors.any(|error| kinds.contains(&error.kind()))
        };
        let faults = [
            (Self::Proxy, has("tunnel error")),
            (
                Self::UnresolvedName,
                has("dns error") || has("failed to lookup address"),
            ),
            (Self::CaCertificate, has("CaUsedAsEndEntity")),
            (
                Self::UnknownCa,
                // The signature does not verify if a trusted CA has the name of the one that signed, but another key.
                has("certificate: UnknownIssuer") || has("certificate: BadSignature"),
            ),
            (
                Self::CertificateName,
                has("certificate not valid for name") || has("NotValidForName"),
            ),
            (
                Self::CertificateTime,
                has("certificate expired")
                    || has("certificate not valid yet")
                    || has("certificate: Expired")
                    || has("certificate: NotValidYet"),
            ),
            (Self::Certificate, has("invalid peer certificate")),
            (Self::NotTls, has("InvalidContentType")),
            // Not before the certificate's faults, whose text has host names.
            (Self::Proxy, has("proxy")),
            (Self::Refused, is_io(&[io::ErrorKind::ConnectionRefused])),
            (
                Self::Unreachable,
                is_io(&[
                    io::ErrorKind::HostUnreachable,
                    io::ErrorKind::NetworkUnreachable,
                ]),
            ),
            (
                Self::Timeout,
                is_io(&[io::ErrorKind::TimedOut]) || has("timed out"),
            ),
        ];
        let found = faults.into_iter().find(|(_, is_found)| *is_found);
        found.map(|(fault, _)| fault)
    }

    /// Returns what an operator can do about the fault of a request to this server.
    pub(crate) fn hint(self, server: &DocumentServer) -> &'static str {
        let is_own_api_server = matches!(server, DocumentServer::OwnApiServer { .. });
        match self {
            Self::Proxy => {
                "check the proxy, which is that of HTTPS_PROXY unless `http_client` sets another, and NO_PROXY"
            }
            Self::UnresolvedName => {
                "check the host name, and that this process can reach a DNS server"
            }
            Self::Refused => {
                "check host and port, and that the server is running and no network policy rejects the connection"
            }
            Self::Unreachable => "check the address, and the network of this process",
            Self::UnknownCa if is_own_api_server => {
                "the API server's certificate is not signed by a CA in the file of `api_ca_file`"
            }
            Self::UnknownCa => {
                "the certificate is not signed by a CA that this process trusts: add the CA's certificate to the system's root certificates (or to the file of SSL_CERT_FILE), or to the client of `http_client`"
            }
            Self::CaCertificate => {
                "the server presents a CA certificate (a self-signed one) as its own certificate, which is not accepted even if it is trusted: give the server a certificate that a CA has issued (CA:FALSE)"
            }
            Self::CertificateName => {
                "the certificate is for another host name: use one that it contains, for example with `discovery_url` or `jwks_url`"
            }
            Self::CertificateTime => {
                "check the validity of the server's certificate, and the clock of this machine"
            }
            Self::Certificate => "check the server's certificate",
            Self::NotTls => "the server does not speak TLS on this port; check the port",
            Self::Timeout => {
                "check host and port, and that no firewall or network policy drops the packets"
            }
        }
    }
}

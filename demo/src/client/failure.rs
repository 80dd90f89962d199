//! Classifies errors of requests: no token, DNS, connection refused, certificate, timeout, and others.

use std::error::Error as StdError;
use std::io;

use tokio_rustls::rustls::{CertificateError, Error as TlsError, OtherError};

/// The cause of a request's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no token to send.
    NoToken,
    /// The host name does not resolve.
    Dns,
    /// No program listens at the address and port.
    Refused,
    /// There is no route to the address.
    Unreachable,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The connection was established, but there was no response in time.
    ResponseTimeout,
    /// The server's certificate was rejected.
    Certificate(CertificateFault),
    /// The server does not speak TLS on that port.
    NotTls,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The server does not speak HTTP on that port.
    NotHttp,
    /// The server closed the connection before its response was complete.
    Closed,
    /// Anything else.
    Other,
}

/// The reason for which a certificate was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateFault {
    /// No trusted CA has issued it.
    UnknownIssuer,
    /// It is for another host name.
    WrongName,
    /// It is the certificate of a CA.
    IsCa,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// Anything else.
    Other,
}

impl Failure {
    /// Classifies the error of a request.
    pub(crate) fn classify_request(error: &reqwest_middleware::Error) -> Self {
        if reqwest_wi_auth::Error::find(error).is_some() {
            return Self::NoToken;
        }
        match error {
            reqwest_middleware::Error::Reqwest(error) => Self::classify(error),
            reqwest_middleware::Error::Middleware(error) => Self::classify(error.as_ref()),
        }
    }

    /// Classifies an error by its causes.
    pub(crate) fn classify(error: &(dyn StdError + 'static)) -> Self {
        let mut failure = Self::Other;
        let (mut has_timed_out, mut is_connecting) = (false, false);
        for cause in causes(error) {
            if let Some(error) = cause.downcast_ref::<TlsError>() {
                return Self::classify_tls(error);
            }
            if let Some(error) = cause.downcast_ref::<reqwest::Error>() {
                has_timed_out |= error.is_timeout();
                is_connecting |= error.is_connect();
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                failure = Self::classify_io(error.kind()).unwrap_or(failure);
                has_timed_out |= error.kind() == io::ErrorKind::TimedOut;
            }
            if let Some(error) = cause.downcast_ref::<hyper::Error>() {
                if error.is_parse() {
                    failure = Self::NotHttp;
                } else if error.is_incomplete_message() {
                    failure = Self::Closed;
                }
            }
            // The type of this error is not public.
            if cause.to_string() == "dns error" {
                return Self::Dns;
            }
        }
        match (has_timed_out, is_connecting) {
            (true, true) => Self::ConnectTimeout,
            (true, false) => Self::ResponseTimeout,
            _ => failure,
        }
    }

    fn classify_io(kind: io::ErrorKind) -> Option<Self> {
        match kind {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Some(Self::Unreachable)
            }
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Self::Closed),
            _ => None,
        }
    }

    fn classify_tls(error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(error) => Self::Certificate(match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    CertificateFault::UnknownIssuer
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => CertificateFault::WrongName,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    CertificateFault::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    CertificateFault::NotYetValid
                }
                CertificateError::Other(other) if is_ca_used_as_end_entity(other) => {
                    CertificateFault::IsCa
                }
                _ => CertificateFault::Other,
            }),
            TlsError::InvalidMessage(_) => Self::NotTls,
            _ => Self::Tls,
        }
    }

    /// Returns what happened, in words. `host` is the host of the request, with its port.
    pub(crate) fn summary(&self, host: &str) -> Option<String> {
        Some(match self {
            Self::NoToken => "no token to send".to_owned(),
            Self::Dns => format!("the name of {host} cannot be resolved (DNS)"),
            Self::Refused => format!("{host} refused the connection"),
            Self::Unreachable => format!("there is no route to {host}"),
            Self::ConnectTimeout => format!("connecting to {host} timed out"),
            Self::ResponseTimeout => format!("{host} did not respond in time"),
            Self::Certificate(CertificateFault::UnknownIssuer) => {
                format!("the certificate of {host} is from a CA that is not trusted")
            }
            Self::Certificate(CertificateFault::WrongName) => {
                format!("the certificate of {host} is for another name")
            }
            Self::Certificate(CertificateFault::IsCa) => {
                "the server presents a CA certificate (a self-signed one) as its own certificate, which is not accepted even with --ca-file".to_owned()
            }
            Self::Certificate(CertificateFault::Expired) => {
                format!("the certificate of {host} has expired by this machine's clock")
            }
            Self::Certificate(CertificateFault::NotYetValid) => {
                format!("the certificate of {host} is not valid yet by this machine's clock")
            }
            Self::Certificate(CertificateFault::Other) => {
                format!("the certificate of {host} cannot be used")
            }
            Self::NotTls => format!("{host} does not speak TLS on that port"),
            Self::Tls => format!("the TLS handshake with {host} failed"),
            Self::NotHttp => format!("{host} does not speak plain http on that port"),
            Self::Closed => format!("{host} closed the connection before its response"),
            Self::Other => return None,
        })
    }

    /// Returns what to do.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoToken => "run `auth-client check` with the same settings to see why",
            Self::Dns => {
                "check the host in --service-url (SERVICE_URL); within a cluster, a Service in another namespace is NAME.NAMESPACE"
            }
            Self::Refused => {
                "check the port in --service-url (SERVICE_URL), and that the server is running"
            }
            Self::Unreachable | Self::ConnectTimeout => {
                "check the host and port in --service-url (SERVICE_URL), and whether a firewall or a NetworkPolicy blocks the connection"
            }
            Self::ResponseTimeout => "check the server's log and its load",
            Self::Certificate(CertificateFault::UnknownIssuer) => {
                "set --ca-file (CA_FILE) to the CA certificate that issued it"
            }
            Self::Certificate(CertificateFault::WrongName) => {
                "use a name in --service-url (SERVICE_URL) that the certificate lists, or issue one that lists this name"
            }
            Self::Certificate(CertificateFault::IsCa) => {
                "give the server a certificate that a CA has issued (CA:FALSE)"
            }
            Self::Certificate(CertificateFault::Expired | CertificateFault::NotYetValid) => {
                "renew the certificate, or set this machine's clock if it is wrong"
            }
            Self::Certificate(CertificateFault::Other) | Self::Tls => {
                "check --tls-certificate (TLS_CERTIFICATE) of the server"
            }
            Self::NotTls => {
                "check the port in --service-url (SERVICE_URL); if the server serves plain http there, as it does without --tls-certificate (TLS_CERTIFICATE), the URL starts with http"
            }
            Self::NotHttp => {
                "if the server serves TLS on that port, the URL in --service-url (SERVICE_URL) starts with https"
            }
            Self::Closed => {
                "check the server's log; if the server serves TLS on that port, the URL in --service-url (SERVICE_URL) starts with https"
            }
            Self::Other => return None,
        })
    }
}

/// Returns whether a certificate was rejected because it is that of a CA. The type of this error is in a crate of which rustls
/// exports nothing, so its name is compared.
fn is_ca_used_as_end_entity(error: &OtherError) -> bool {
    format!("{:?}", error.0) == "CaUsedAsEndEntity"
}

/// Returns an error and its causes. Unlike [`StdError::source`], this includes the error that an I/O error wraps.
fn causes<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Box<dyn StdError + Send + Sync>);

    fn classify(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
        Failure::classify(&Outer(error.into()))
    }

    #[test]
    fn an_error_of_tls_is_found_within_errors_of_io() {
        let tls = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let nested = io::Error::other(io::Error::other(tls));
        assert_eq!(
            classify(nested),
            Failure::Certificate(CertificateFault::UnknownIssuer)
        );
    }

    #[test]
    fn errors_of_io_are_classified_by_their_kind() {
        for (kind, failure) in [
            (io::ErrorKind::ConnectionRefused, Failure::Refused),
            (io::ErrorKind::NetworkUnreachable, Failure::Unreachable),
            (io::ErrorKind::ConnectionReset, Failure::Closed),
            (io::ErrorKind::TimedOut, Failure::ResponseTimeout),
            (io::ErrorKind::OutOfMemory, Failure::Other),
        ] {
            assert_eq!(classify(io::Error::from(kind)), failure);
            let has_text = failure != Failure::Other;
            assert_eq!(failure.summary("a.example:443").is_some(), has_text);
            assert_eq!(failure.advice().is_some(), has_text);
        }
    }

    #[test]
    fn a_missing_token_is_recognized_however_it_is_wrapped() {
        let error = reqwest_wi_auth::Token::new("").unwrap_err();
        let wrapped = reqwest_middleware::Error::middleware(Outer(Box::new(error)));
        assert_eq!(Failure::classify_request(&wrapped), Failure::NoToken);
        let other = reqwest_middleware::Error::middleware(Outer("something else".into()));
        assert_eq!(Failure::classify_request(&other), Failure::Other);
    }
}

//! Failed TLS handshakes: counted by cause, and logged as summaries.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::rustls::{AlertDescription, Error as TlsError};

/// The least time between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// The cause of a failed handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HandshakeFailure {
    /// The client does not know the CA.
    UnknownCa,
    /// The client rejects the certificate for another reason.
    RejectedCertificate,
    /// The client ended the handshake with another alert.
    OtherAlert,
    /// The client does not speak TLS.
    NotTls,
    /// Client and server have no TLS version, cipher suite or other parameter in common.
    Incompatible,
    /// The client did not complete the handshake in time.
    TimedOut,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// Classifies the error of a handshake. Returns `None` if the client closed the connection without an alert, as probes of a
    /// TCP port do.
    pub(super) fn classify(error: &io::Error) -> Option<Self> {
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        let Some(tls) = tls else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => None,
                _ => Some(Self::Other),
            };
        };
        Some(match tls {
            TlsError::AlertReceived(alert) => match alert {
                AlertDescription::UnknownCA => Self::UnknownCa,
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown => Self::RejectedCertificate,
                _ => Self::OtherAlert,
            },
            TlsError::InvalidMessage(_) => Self::NotTls,
            TlsError::PeerIncompatible(_) => Self::Incompatible,
            _ => Self::Other,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::UnknownCa => "the client does not trust the certificate (alert UnknownCA)",
            Self::RejectedCertificate => {
                "the client rejects the certificate (its name, its dates or its form)"
            }
            Self::OtherAlert => "the client ended the handshake with an alert",
            Self::NotTls => "not TLS (plain HTTP?)",
            Self::Incompatible => "no TLS version or cipher suite in common",
            Self::TimedOut => "not completed in time",
            Self::Other => "another error",
        }
    }
}

/// Counts the failed handshakes of a listener.
#[derive(Debug, Default)]
pub(super) struct HandshakeFailures {
    counts: Mutex<BTreeMap<HandshakeFailure, u64>>,
    failed: Notify,
}

impl HandshakeFailures {
    pub(super) fn count(&self, failure: HandshakeFailure) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(failure).or_default() += 1;
        drop(counts);
        self.failed.notify_one();
    }

    /// Logs the first failure at once, and those that follow as one summary per interval. Never completes.
    pub(super) async fn log_summaries(&self) {
        loop {
            self.failed.notified().await;
            let mut has_logged = self.log("");
            while has_logged {
                sleep(SUMMARY_INTERVAL).await;
                has_logged = self.log(" in the last 10 s");
            }
        }
    }

    /// Logs the failures since the last call. Returns whether there were any.
    pub(super) fn log(&self, period: &str) -> bool {
        // Not locked while it is logged, so that a slow output does not delay connections.
        let counts =
            std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        let total: u64 = counts.values().sum();
        if total == 0 {
            return false;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let counts = counts
            .iter()
            .map(|(failure, count)| format!("{count} {}", failure.as_str()));
        let causes = counts.collect::<Vec<_>>().join(", ");
        let handshakes = if total == 1 {
            "handshake"
        } else {
            "handshakes"
        };
        tracing::warn!("{total} TLS {handshakes} failed{period}: {causes}");
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::{InvalidMessage, PeerIncompatible};

    use super::*;
    use crate::test_support::Log;

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_logged_at_once_and_later_ones_as_a_summary() {
        let (log, _guard) = Log::start();
        let failures = HandshakeFailures::default();
        let steps = async {
            sleep(Duration::from_secs(60)).await;
            failures.count(HandshakeFailure::NotTls);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(log.messages().len(), 1);
            for _ in 0..10 {
                failures.count(HandshakeFailure::UnknownCa);
            }
            failures.count(HandshakeFailure::NotTls);
            sleep(Duration::from_secs(8)).await;
            assert_eq!(log.messages().len(), 1);
            sleep(Duration::from_secs(60)).await;
            failures.count(HandshakeFailure::TimedOut);
            sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            () = steps => {}
            () = failures.log_summaries() => {}
        }
        assert_eq!(
            log.messages(),
            [
                "1 TLS handshake failed: 1 not TLS (plain HTTP?)",
                "11 TLS handshakes failed in the last 10 s: 10 the client does not trust the certificate (alert UnknownCA), 1 not TLS (plain HTTP?)",
                "1 TLS handshake failed: 1 not completed in time",
            ]
        );
    }

    #[test]
    fn errors_are_classified_by_their_cause() {
        let classify = |error| HandshakeFailure::classify(&io::Error::other::<TlsError>(error));
        for (error, expected) in [
            (
                TlsError::AlertReceived(AlertDescription::UnknownCA),
                HandshakeFailure::UnknownCa,
            ),
            (
                TlsError::AlertReceived(AlertDescription::CertificateExpired),
                HandshakeFailure::RejectedCertificate,
            ),
            (
                TlsError::AlertReceived(AlertDescription::Unknown(77)),
                HandshakeFailure::OtherAlert,
            ),
            (
                TlsError::InvalidMessage(InvalidMessage::InvalidContentType),
                HandshakeFailure::NotTls,
            ),
            (
                TlsError::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                HandshakeFailure::Incompatible,
            ),
            (TlsError::HandshakeNotComplete, HandshakeFailure::Other),
        ] {
            assert_eq!(classify(error), Some(expected));
        }
        // A probe of the port.
        let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(HandshakeFailure::classify(&closed), None);
    }
}

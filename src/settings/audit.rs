//! Where the audit trail goes, and what it says of patients.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::tls::TlsClientSettings;

/// The audit trail; off without a file and without a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSettings {
    /// A file, one message a line.
    pub file: Option<PathBuf>,
    /// A syslog receiver.
    #[serde(deserialize_with = "receiver")]
    pub syslog: Option<SyslogReceiver>,
    /// For a receiver that is called with TLS.
    pub tls: TlsClientSettings,
    /// What it says of patients.
    pub patients: PatientsInAudit,
}

/// What the audit trail says of patients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientsInAudit {
    /// A hash of the Patient ID, which only this installation's key can compare.
    #[default]
    Hashed,
    /// Patient ID and name.
    Clear,
    /// Nothing.
    None,
}

/// How a syslog receiver is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogTransport {
    /// RFC 5426.
    Udp,
    /// RFC 6587, octet counting.
    Tcp,
    /// RFC 5425.
    Tls,
}

/// A syslog receiver: `udp://HOST:PORT`, `tcp://HOST:PORT` or `tls://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogReceiver {
    /// How.
    pub transport: SyslogTransport,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a text names no receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a syslog receiver is written udp://HOST:514, tcp://HOST:601 or tls://HOST:6514; found {0:?}")]
pub struct InvalidReceiver(String);

impl FromStr for SyslogReceiver {
    type Err = InvalidReceiver;

    fn from_str(text: &str) -> Result<Self, InvalidReceiver> {
        let invalid = || InvalidReceiver(text.to_owned());
        let (scheme, address) = text.split_once("://").ok_or_else(invalid)?;
        let transport = match scheme {
            "udp" => SyslogTransport::Udp,
            "tcp" => SyslogTransport::Tcp,
            "tls" => SyslogTransport::Tls,
            _ => return Err(invalid()),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Ok(port) = port.parse() else { return Err(invalid()) };
        if host.is_empty() || port == 0 {
            return Err(invalid());
        }
        Ok(Self { transport, host: host.to_owned(), port })
    }
}

impl fmt::Display for SyslogReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            SyslogTransport::Udp => "udp",
            SyslogTransport::Tcp => "tcp",
            SyslogTransport::Tls => "tls",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

fn receiver<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SyslogReceiver>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

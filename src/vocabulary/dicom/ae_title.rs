//! Application entity titles and peers (PS3.8 7.1.1.3; `AET@HOST:PORT` is our notation).

use std::fmt;
use std::str::FromStr;

/// An AE title: 1 to 16 characters of the default repertoire, without backslash or control characters,
/// leading and trailing spaces not significant (PS3.5 6.2, VR AE).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AeTitle(String);

/// Why a text is no AE title.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an AE title has 1 to 16 characters, ASCII without backslash or control characters; found {found:?}")]
pub struct InvalidAeTitle {
    /// What was given.
    pub found: String,
}

impl AeTitle {
    /// The title without padding.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AeTitle {
    type Err = InvalidAeTitle;

    fn from_str(text: &str) -> Result<Self, InvalidAeTitle> {
        let title = text.trim_matches([' ', '\0']);
        let characters_ok = title.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        if title.is_empty() || title.len() > 16 || !characters_ok {
            return Err(InvalidAeTitle { found: text.to_owned() });
        }
        Ok(Self(title.to_owned()))
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An application entity on the network: `AET@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Called AE title.
    pub ae_title: AeTitle,
    /// Host name or address; an IPv6 address stands in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a peer is written AET@HOST:PORT, such as ECLIPSE@10.0.0.5:104; found {found:?}")]
pub struct InvalidPeer {
    /// What was given.
    pub found: String,
}

impl FromStr for Peer {
    type Err = InvalidPeer;

    fn from_str(text: &str) -> Result<Self, InvalidPeer> {
        let invalid = || InvalidPeer { found: text.to_owned() };
        let (title, address) = text.split_once('@').ok_or_else(invalid)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let Ok(ae_title) = title.parse() else { return Err(invalid()) };
        let Ok(port) = port.parse() else { return Err(invalid()) };
        if host.is_empty() || port == 0 {
            return Err(invalid());
        }
        Ok(Self { ae_title, host: host.to_owned(), port })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.ae_title, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reads_as_it_is_written() {
        let peer: Peer = "ECLIPSE@[::1]:104".parse().unwrap();
        assert_eq!((peer.host.as_str(), peer.port), ("[::1]", 104));
        assert_eq!(peer.to_string().parse::<Peer>().unwrap(), peer);
        for bad in ["ECLIPSE", "@h:1", "A@:1", "A@h:0", "A@h:70000", "SEVENTEEN_LETTERS@h:1"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad:?} passed");
        }
    }
}

//! Destinations as the settings have them: one way each, a name, and how structure sets are written for it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

pub use super::formats::{FormatChoice, InvalidFormat};
use super::tls::TlsClientSettings;
use crate::pipeline::delivery::{Destination, Login, SecretSource, StowService, Way};
use crate::vocabulary::dicom::Peer;

/// A destination, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSettings {
    /// The way there.
    pub to: Destination,
    /// How structure sets are written for it.
    pub format: FormatChoice,
}

impl From<Peer> for DestinationSettings {
    fn from(peer: Peer) -> Self {
        Self { to: peer.into(), format: FormatChoice::default() }
    }
}

/// A name that two destinations have.
pub(super) fn repeated_name(destinations: &[DestinationSettings]) -> Option<&str> {
    let names: Vec<&str> = destinations.iter().map(|d| d.to.name.as_str()).collect();
    names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)).map(|(_, name)| *name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    name: Option<String>,
    #[serde(default)]
    format: FormatChoice,
    peer: Option<String>,
    commitment_wait_s: Option<f64>,
    tls: Option<TlsClientSettings>,
    folder: Option<PathBuf>,
    stow: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    token_file: Option<PathBuf>,
    token_env: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    plain_http: bool,
}

impl<'de> Deserialize<'de> for DestinationSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        InFile::deserialize(deserializer)?.checked().map_err(serde::de::Error::custom)
    }
}

impl InFile {
    fn checked(self) -> Result<DestinationSettings, String> {
        let stow_only = [
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("password_env", self.password_env.is_some()),
            ("token_file", self.token_file.is_some()),
            ("token_env", self.token_env.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("plain_http", self.plain_http),
        ];
        if let Some((key, _)) = stow_only.iter().find(|(_, set)| *set && self.stow.is_none()) {
            return Err(format!("{key} belongs to a destination with stow"));
        }
        if self.commitment_wait_s.is_some() && self.peer.is_none() {
            return Err("commitment_wait_s belongs to a destination with peer".to_owned());
        }
        if self.tls.is_some() && self.peer.is_none() {
            return Err("tls belongs to a destination with peer; stow takes ca_file".to_owned());
        }
        let commitment = match self.commitment_wait_s {
            Some(wait_s) if (0.1..=3_600.0).contains(&wait_s) => Some(Duration::from_secs_f64(wait_s)),
            Some(_) => return Err("commitment_wait_s: 0.1 to 3600".to_owned()),
            None => None,
        };
        let name = self.name.clone();
        let (way, usual_name) = match (&self.peer, &self.folder, &self.stow) {
            (Some(peer), None, None) => {
                let peer: Peer = peer.parse().map_err(|error| format!("peer: {error}"))?;
                let name = peer.to_string();
                (Way::Store { peer, commitment, tls: self.tls.as_ref().map(TlsClientSettings::files) }, name)
            }
            (None, Some(folder), None) => {
                if !folder.is_absolute() {
                    return Err(format!(
                        "folder: a path from the root is needed, found {}",
                        folder.display()
                    ));
                }
                (Way::Folder(folder.clone()), folder.display().to_string())
            }
            (None, None, Some(address)) => {
                let service = self.stow_service(address)?;
                let name = service.url.to_string();
                (Way::Stow(service), name)
            }
            _ => return Err("a destination has one of peer, folder and stow".to_owned()),
        };
        let name = name.unwrap_or(usual_name);
        let is_printable = name.chars().all(|c| !c.is_control());
        if name.trim().is_empty() || name.len() > 200 || !is_printable {
            return Err("name: 1 to 200 printable characters".to_owned());
        }
        Ok(DestinationSettings { to: Destination { name, way }, format: self.format })
    }

    fn stow_service(&self, text: &str) -> Result<StowService, String> {
        let url = address("stow", text, self.plain_http)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("stow: the address of the service, without ? and #".to_owned());
        }
        Ok(StowService { url, login: self.login()?, ca_file: self.ca_file.clone() })
    }

    fn login(&self) -> Result<Option<Login>, String> {
        let password = secret(&self.password_file, &self.password_env, "password")?;
        let token = secret(&self.token_file, &self.token_env, "token")?;
        match (&self.user, password, token) {
            (None, None, None) => Ok(None),
            (Some(user), Some(password), None) if !user.contains(':') => {
                Ok(Some(Login::Basic { user: user.clone(), password }))
            }
            (None, None, Some(token)) => Ok(Some(Login::Bearer(token))),
            _ => {
                Err("a login is user with password_file or password_env, or token_file or token_env alone; \
                      a user has no colon"
                    .to_owned())
            }
        }
    }
}

/// An address over HTTPS, or over HTTP on this machine or where that is allowed.
pub(super) fn address(key: &str, text: &str, plain_http: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{key}: no address: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{key}: a login does not belong into the address; use user and password_file"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain_http || is_this_machine(&url) => Ok(url),
        "http" => Err(format!(
            "{key}: http beyond this machine is readable for all; use https, or set plain_http: true"
        )),
        other => Err(format!("{key}: https or http, found {other}")),
    }
}

/// Where a secret lies, by the keys `WHAT_file` and `WHAT_env`.
pub(super) fn secret(
    file: &Option<PathBuf>,
    variable: &Option<String>,
    what: &str,
) -> Result<Option<SecretSource>, String> {
    match (file, variable) {
        (Some(_), Some(_)) => Err(format!("either {what}_file or {what}_env")),
        (Some(file), None) => Ok(Some(SecretSource::File(file.clone()))),
        (None, Some(variable)) => Ok(Some(SecretSource::Environment(variable.clone()))),
        (None, None) => Ok(None),
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<DestinationSettings, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn each_way_is_read() {
        assert_eq!(read("{peer: TPS@h:104}").unwrap().to.name, "TPS@h:104");
        let folder = read("{name: import, folder: /mnt/import}").unwrap();
        assert_eq!(
            folder.to,
            Destination { name: "import".to_owned(), way: Way::Folder("/mnt/import".into()) }
        );
        let stow = "{stow: https://pacs/dicom-web/, user: oarlock, password_file: /etc/secret}";
        let Way::Stow(service) = read(stow).unwrap().to.way else { panic!("no stow") };
        assert!(matches!(service.login, Some(Login::Basic { .. })), "{service:?}");
        assert!(read("{stow: 'http://127.0.0.1:8042/dicom-web'}").is_ok());
        assert!(read("{stow: 'http://pacs/dicom-web', plain_http: true}").is_ok());
    }

    #[test]
    fn a_wrong_destination_says_what_is_wrong() {
        for (yaml, named) in [
            ("{name: nowhere}", "one of peer, folder and stow"),
            ("{peer: TPS@h:104, folder: /x}", "one of peer, folder and stow"),
            ("{peer: TPS@h:104, user: me}", "user belongs"),
            ("{folder: /x, tls: {}}", "tls belongs"),
            ("{peer: TPS@h:104, tls: {ca: x}}", "authorities"),
            ("{folder: /x, commitment_wait_s: 5}", "commitment_wait_s belongs"),
            ("{peer: TPS@h:104, commitment_wait_s: 0}", "0.1 to 3600"),
            ("{folder: import}", "from the root"),
            ("{stow: 'http://pacs/dicom-web'}", "plain_http"),
            ("{stow: 'ftp://pacs'}", "https or http"),
            ("{stow: 'https://me:pass@pacs'}", "password_file"),
            ("{stow: 'https://pacs', user: me}", "a login is"),
            ("{stow: 'https://pacs', user: me, password_file: /a, password_env: B}", "either password_file"),
            ("{stow: 'https://pacs', token_env: A, user: me}", "a login is"),
            ("{peer: TPS@h:104, colour: red}", "colour"),
            ("{peer: TPS@h:104, name: ' '}", "name"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
            assert!(!error.contains("pass@"), "a password in an error: {error}");
        }
    }
}

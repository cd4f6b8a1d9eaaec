//! Where a cluster's state and objects lie: a PostgreSQL and an S3 bucket that its nodes share.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use super::SettingsError;
use super::destinations::{address, secret};
use crate::pipeline::delivery::{SecretError, SecretSource};
use crate::pipeline::objects::BucketAccess;

/// What the nodes of a cluster share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// The database.
    pub postgres: PostgresSettings,
    /// The bucket of instances, structure sets and what still has to go.
    pub s3: BucketSettings,
    /// After so long without a sign of life a node counts as dead, and others take over what it had in hand, s.
    #[serde(default = "usual_lease_s")]
    pub lease_s: f64,
}

fn usual_lease_s() -> f64 {
    60.0
}

/// A PostgreSQL database, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    address: PostgresAddress,
    plaintext: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PostgresAddress {
    /// A whole URL, password included.
    Url(SecretSource),
    /// A URL without a password, and the password.
    Parts { url: Url, password: Option<SecretSource> },
}

/// An S3 bucket, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    endpoint: Url,
    region: String,
    bucket: String,
    prefix: String,
    access_key: SecretSource,
    secret_key: SecretSource,
    ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostgresInFile {
    url_file: Option<PathBuf>,
    url_env: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    plaintext: bool,
}

impl<'de> Deserialize<'de> for PostgresSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PostgresInFile::deserialize(deserializer)?.checked().map_err(serde::de::Error::custom)
    }
}

impl PostgresInFile {
    fn checked(self) -> Result<PostgresSettings, String> {
        let whole = secret(&self.url_file, &self.url_env, "url")?;
        let password = secret(&self.password_file, &self.password_env, "password")?;
        let plaintext = self.plaintext;
        let address = match (whole, self.host) {
            (Some(url), None) => {
                let parts = [
                    ("port", self.port.is_some()),
                    ("database", self.database.is_some()),
                    ("user", self.user.is_some()),
                    ("password_file or password_env", password.is_some()),
                    ("ca_file", self.ca_file.is_some()),
                ];
                if let Some((key, _)) = parts.iter().find(|(_, is_set)| *is_set) {
                    return Err(format!("{key} stands in the URL already"));
                }
                PostgresAddress::Url(url)
            }
            (None, Some(_)) if plaintext && self.ca_file.is_some() => {
                return Err("ca_file is for TLS, plaintext is without: one of the two".to_owned());
            }
            (None, Some(host)) => {
                let mut url = Url::parse("postgres://localhost").map_err(|error| error.to_string())?;
                url.set_host(Some(&host)).map_err(|error| format!("host: {error}"))?;
                let taken = url
                    .set_port(self.port)
                    .and_then(|()| url.set_username(self.user.as_deref().unwrap_or("oarlock")));
                taken.map_err(|()| "host: a name or an address".to_owned())?;
                url.set_path(self.database.as_deref().unwrap_or("oarlock"));
                // Who names an authority wants it asked, on this machine too.
                if let Some(ca_file) = &self.ca_file {
                    let mut query = url.query_pairs_mut();
                    query.append_pair("sslrootcert", &ca_file.to_string_lossy());
                    query.append_pair("sslmode", "verify-full");
                }
                PostgresAddress::Parts { url, password }
            }
            _ => {
                return Err(
                    "either url_file (or url_env), or host with database, user and password_file".to_owned()
                );
            }
        };
        Ok(PostgresSettings { address, plaintext })
    }
}

/// Why the database's address cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// A secret.
    #[error("store.postgres")]
    Secret(#[source] SecretError),
    /// What is in the file is none; it is not shown, since a password may be in it.
    #[error("what store.postgres.url_file names holds no postgres:// address")]
    NoAddress,
    /// Somebody could read along.
    #[error(
        "store.postgres: sslmode={found} beyond this machine is readable for all: take verify-full, or set plaintext: true"
    )]
    Readable {
        /// The mode.
        found: String,
    },
}

impl PostgresSettings {
    /// The whole URL, password included: for the database alone, never for a message.
    ///
    /// Beyond this machine the connection is encrypted and the server's certificate checked, unless the URL or
    /// `plaintext` says otherwise.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn url(&self) -> Result<String, AddressError> {
        let mut url = match &self.address {
            PostgresAddress::Url(source) => {
                let secret = source.read().map_err(AddressError::Secret)?;
                Url::parse(secret.expose().trim()).map_err(|_not_shown| AddressError::NoAddress)?
            }
            PostgresAddress::Parts { url, password } => {
                let mut url = url.clone();
                if let Some(password) = password {
                    let password = password.read().map_err(AddressError::Secret)?;
                    url.set_password(Some(password.expose())).map_err(|()| AddressError::NoAddress)?;
                }
                url
            }
        };
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(AddressError::NoAddress);
        }
        let mode = url.query_pairs().find(|(key, _)| key == "sslmode").map(|(_, mode)| mode.into_owned());
        let is_here = is_this_machine(&url);
        match mode {
            Some(mode)
                if !is_here && !self.plaintext && !mode.starts_with("verify-") && mode != "require" =>
            {
                return Err(AddressError::Readable { found: mode });
            }
            None if !is_here && !self.plaintext => {
                url.query_pairs_mut().append_pair("sslmode", "verify-full");
            }
            _ => {}
        }
        Ok(url.into())
    }
}

/// Whether a URL that is not of the web names this machine.
fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        None => true,
        Some(Host::Domain(name)) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BucketInFile {
    endpoint: String,
    #[serde(default = "usual_region")]
    region: String,
    bucket: String,
    #[serde(default)]
    prefix: String,
    access_key_file: Option<PathBuf>,
    access_key_env: Option<String>,
    secret_key_file: Option<PathBuf>,
    secret_key_env: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    plain_http: bool,
}

fn usual_region() -> String {
    "us-east-1".to_owned()
}

impl<'de> Deserialize<'de> for BucketSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BucketInFile::deserialize(deserializer)?.checked().map_err(serde::de::Error::custom)
    }
}

impl BucketInFile {
    fn checked(self) -> Result<BucketSettings, String> {
        let endpoint = address("endpoint", &self.endpoint, self.plain_http)?;
        let is_name = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !is_name(&self.bucket) {
            return Err("bucket: a name of letters, digits, - and .".to_owned());
        }
        let prefix = self.prefix.trim_matches('/').to_owned();
        if !prefix.is_empty() && !prefix.split('/').all(|part| is_name(part) && !part.starts_with('.')) {
            return Err("prefix: names of letters, digits, -, _ and . with / between them".to_owned());
        }
        let key = |file, variable, what: &str| {
            secret(file, variable, what)?.ok_or_else(|| format!("{what}_file or {what}_env is needed"))
        };
        Ok(BucketSettings {
            endpoint,
            region: self.region,
            bucket: self.bucket,
            prefix,
            access_key: key(&self.access_key_file, &self.access_key_env, "access_key")?,
            secret_key: key(&self.secret_key_file, &self.secret_key_env, "secret_key")?,
            ca_file: self.ca_file,
        })
    }
}

impl std::fmt::Display for BucketSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.endpoint.as_str().trim_end_matches('/'), self.bucket)
    }
}

impl BucketSettings {
    /// How it is reached, its secrets read.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn access(&self) -> Result<BucketAccess, SecretError> {
        Ok(BucketAccess {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            access_key: self.access_key.read()?.expose().to_owned(),
            secret_key: self.secret_key.read()?.expose().to_owned(),
            ca_file: self.ca_file.clone(),
        })
    }
}

impl StoreSettings {
    /// Checks what serde cannot. `origin` is named in errors.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub(super) fn check(&self, origin: &Path) -> Result<(), SettingsError> {
        if (1.0..=3_600.0).contains(&self.lease_s) {
            return Ok(());
        }
        let (path, found) = (origin.to_owned(), self.lease_s.to_string());
        Err(SettingsError::Value { path, key: "store.lease_s", found, allowed: "1 to 3600" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(yaml: &str) -> Result<PostgresSettings, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    fn secret_file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_database_is_spoken_to_in_secret_unless_it_is_on_this_machine_or_that_is_allowed() {
        let password = secret_file("s3cret/@:word\n");
        let parts = |host: &str, more: &str| {
            postgres(&format!(
                "{{host: {host}, user: me, password_file: {}{more}}}",
                password.path().display()
            ))
            .unwrap()
        };
        let far = parts("db.hospital.example", ", ca_file: /ca.pem");
        assert_eq!(
            far.url().unwrap(),
            "postgres://me:s3cret%2F%40%3Aword@db.hospital.example/oarlock?sslrootcert=%2Fca.pem&sslmode=verify-full"
        );
        assert!(!format!("{far:?}").contains("s3cret"));
        assert!(!parts("127.0.0.1", ", port: 5433").url().unwrap().contains("sslmode"));
        assert!(parts("127.0.0.1", ", ca_file: /ca.pem").url().unwrap().contains("sslmode=verify-full"));
        assert!(!parts("db", ", plaintext: true").url().unwrap().contains("sslmode"));
        for (text, named) in
            [("postgres://me:pass@db/x?sslmode=prefer", "sslmode=prefer"), ("mysql://db", "postgres://")]
        {
            let file = secret_file(text);
            let settings = postgres(&format!("{{url_file: {}}}", file.path().display())).unwrap();
            let error = settings.url().unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("pass@"), "{error}");
        }
    }

    #[test]
    fn a_wrong_store_says_what_is_wrong() {
        for (yaml, named) in [
            ("{}", "either url_file"),
            ("{url_file: /a, host: db}", "either url_file"),
            ("{url_file: /a, user: me}", "user stands in the URL"),
            ("{host: db, password: x}", "password"),
            ("{host: db, ca_file: /ca.pem, plaintext: true}", "one of the two"),
        ] {
            let error = postgres(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
        let keys = "access_key_env: A, secret_key_env: B";
        for (yaml, named) in [
            (format!("{{endpoint: 'http://store:9000', bucket: b, {keys}}}"), "plain_http"),
            (format!("{{endpoint: 'https://store', bucket: 'a b', {keys}}}"), "bucket"),
            (format!("{{endpoint: 'https://store', bucket: b, prefix: a/../b, {keys}}}"), "prefix"),
            ("{endpoint: 'https://store', bucket: b, access_key_env: A}".to_owned(), "secret_key_file"),
        ] {
            let error = serde_yaml::from_str::<BucketSettings>(&yaml).unwrap_err().to_string();
            assert!(error.contains(named), "{yaml}: {error}");
        }
    }
}

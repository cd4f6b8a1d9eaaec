//! Passwords and tokens: named in the settings, read when they are needed, never shown.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Where a secret lies. The settings hold this, never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; the line break at its end does not count.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// Why a secret cannot be read; nothing of it is in the message.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file.
    #[error("the secret in {path} cannot be read: it must be a text file that this user may read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The variable.
    #[error("the environment variable {name} is not set, and a secret should be in it")]
    Environment {
        /// Which.
        name: String,
    },
    /// Nothing in it.
    #[error("{found} is empty, and a secret should be in it")]
    Empty {
        /// Where.
        found: String,
    },
}

/// A secret in memory. It has no `Display`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl SecretSource {
    /// Reads it, each time anew, so that a secret that was changed needs no restart.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => {
                fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?
            }
            Self::Environment(name) => env::var(name)
                .map_err(|_missing_or_no_text| SecretError::Environment { name: name.clone() })?,
        };
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            let found = match self {
                Self::File(path) => path.display().to_string(),
                Self::Environment(name) => name.clone(),
            };
            return Err(SecretError::Empty { found });
        }
        Ok(Secret(secret.to_owned()))
    }
}

impl Secret {
    /// The secret itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_break_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret word\r\n").unwrap();
        let source = SecretSource::File(file.path().to_owned());
        let secret = source.read().unwrap();
        assert_eq!(secret.expose(), "s3cret word");
        assert!(!format!("{secret:?}{source:?}").contains("s3cret"));
        std::fs::write(file.path(), "\n").unwrap();
        assert!(matches!(source.read(), Err(SecretError::Empty { .. })));
        let missing = SecretSource::Environment("OARLOCK_NO_SUCH_VARIABLE".to_owned());
        assert!(missing.read().unwrap_err().to_string().contains("OARLOCK_NO_SUCH_VARIABLE"));
    }
}

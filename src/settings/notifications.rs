//! Who is told of what happens.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::destinations::{address, secret};
use crate::pipeline::delivery::{Listeners, Mail, MailEncryption, NoticeKind, Webhook};

/// Who is told of what happens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationSettings {
    /// Addresses that take a POST.
    #[serde(deserialize_with = "webhooks")]
    pub webhooks: Vec<Webhook>,
    /// People that get a mail.
    #[serde(deserialize_with = "mail")]
    pub mail: Vec<Mail>,
}

impl NotificationSettings {
    /// All of them.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        Listeners { webhooks: self.webhooks.clone(), mail: self.mail.clone() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MailInFile {
    server: String,
    #[serde(default)]
    encryption: EncryptionInFile,
    user: Option<String>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    ca_file: Option<PathBuf>,
    from: String,
    to: Vec<String>,
    on: BTreeSet<NoticeKind>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EncryptionInFile {
    #[default]
    Starttls,
    Tls,
    None,
}

fn mail<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Mail>, D::Error> {
    let found = Option::<Vec<MailInFile>>::deserialize(deserializer)?.unwrap_or_default();
    found.into_iter().map(|entry| checked_mail(entry).map_err(serde::de::Error::custom)).collect()
}

fn checked_mail(entry: MailInFile) -> Result<Mail, String> {
    let (host, port) = entry.server.rsplit_once(':').ok_or("server: HOST:PORT")?;
    let port = port.parse().map_err(|_no_number| format!("server: HOST:PORT, found {}", entry.server))?;
    if host.is_empty() {
        return Err("server: HOST:PORT".to_owned());
    }
    let login = match (entry.user, secret(&entry.password_file, &entry.password_env, "password")?) {
        (None, None) => None,
        (Some(user), Some(password)) => Some((user, password)),
        _ => return Err("a login is user with password_file or password_env".to_owned()),
    };
    if login.is_some() && entry.encryption == EncryptionInFile::None {
        return Err("encryption: starttls or tls, or the password is readable for all".to_owned());
    }
    if entry.on.is_empty() {
        return Err("on: at least one of failure, delivery, doubt".to_owned());
    }
    if entry.to.is_empty() {
        return Err("to: at least one address".to_owned());
    }
    Ok(Mail {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port,
        encryption: match entry.encryption {
            EncryptionInFile::Starttls => MailEncryption::StartTls,
            EncryptionInFile::Tls => MailEncryption::Tls,
            EncryptionInFile::None => MailEncryption::None,
        },
        login,
        ca_file: entry.ca_file,
        from: entry.from.parse()?,
        to: entry.to.iter().map(|to| to.parse()).collect::<Result<_, _>>()?,
        on: entry.on,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    url: String,
    on: BTreeSet<NoticeKind>,
    secret_file: Option<PathBuf>,
    secret_env: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    plain_http: bool,
}

fn webhooks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Webhook>, D::Error> {
    let found = Option::<Vec<InFile>>::deserialize(deserializer)?.unwrap_or_default();
    found.into_iter().map(|entry| checked(entry).map_err(serde::de::Error::custom)).collect()
}

fn checked(entry: InFile) -> Result<Webhook, String> {
    let url = address("url", &entry.url, entry.plain_http)?;
    let secret = secret(&entry.secret_file, &entry.secret_env, "secret")?;
    if entry.on.is_empty() {
        return Err("on: at least one of failure, delivery, doubt".to_owned());
    }
    Ok(Webhook { url, secret, ca_file: entry.ca_file, on: entry.on })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<NotificationSettings, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_webhook_is_read_and_a_wrong_one_says_why() {
        let read_one =
            read("webhooks: [{url: 'https://pager/x?team=7', on: [failure, doubt], secret_env: KEY}]");
        assert_eq!(read_one.unwrap().webhooks[0].on, [NoticeKind::Failure, NoticeKind::Doubt].into());
        assert_eq!(read("{}").unwrap(), NotificationSettings::default());
        for (yaml, named) in [
            ("webhooks: [{url: 'http://pager/x', on: [failure]}]", "plain_http"),
            ("webhooks: [{url: 'https://pager/x', on: []}]", "at least one"),
            ("webhooks: [{url: 'https://pager/x', on: [success]}]", "success"),
            ("webhooks: [{url: 'https://a:b@pager/x', on: [failure]}]", "login"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
        let with = |more: &str| {
            read(&format!(
                "mail: [{{server: 'mail.h:587', from: a@h.example, to: [b@h.example], on: [doubt]{more}}}]"
            ))
        };
        assert_eq!(with("").unwrap().mail[0].encryption, MailEncryption::StartTls);
        assert!(with(", user: u, password_env: P").unwrap().mail[0].login.is_some());
        for (more, named) in [
            (", encryption: none, user: u, password_env: P", "readable for all"),
            (", user: u", "password_file"),
            (", encryption: some", "starttls"),
        ] {
            let error = with(more).unwrap_err();
            assert!(error.contains(named), "{more}: {error}");
        }
        let wrong = "mail: [{server: 'mail.h', from: a@h.example, to: [b], on: [doubt]}]";
        assert!(read(wrong).unwrap_err().contains("HOST:PORT"));
        assert!(read(&wrong.replace("mail.h'", "mail.h:25'")).unwrap_err().contains("no mail address"));
    }
}

//! Who is told of what happens.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::destinations::{address, secret};
use crate::pipeline::delivery::{NoticeKind, Webhook};

/// Who is told of what happens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationSettings {
    /// Addresses that take a POST.
    #[serde(deserialize_with = "webhooks")]
    pub webhooks: Vec<Webhook>,
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
    }
}

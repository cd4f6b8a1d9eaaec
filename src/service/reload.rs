//! Settings that may change while the service runs, and what becomes of a change.
//!
//! Comes in: settings as they are in the file now. Goes out: what was taken over at once and what waits for a restart, or
//! an error after which everything is as before.

use std::path::Path;
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::outbox::Outbox;
use super::{ServiceError, called_back, door, retry_policy, scu_timeouts};
use crate::pipeline::delivery::Audience;
use crate::pipeline::ingest::{Door, Pledges};
use crate::pipeline::series::Rules;
use crate::pipeline::tls::TlsServer;
use crate::settings::{ServiceSettings, load_rules};

/// What is in force.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) settings: ServiceSettings,
    /// Which series are contoured, and how; all alike without.
    pub(super) rules: Option<Arc<Rules>>,
}

/// What became of settings that were read again: the keys that changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// In force from now on.
    pub taken_over: Vec<&'static str>,
    /// In force after the next start.
    pub at_the_next_start: Vec<&'static str>,
}

/// Takes settings over while the service runs; it keeps nothing running that ends with the service.
#[derive(Debug)]
pub struct Reloader {
    pub(super) live: watch::Sender<Arc<Live>>,
    pub(super) door: watch::Sender<Arc<Door>>,
    pub(super) pledges: Arc<Pledges>,
    pub(super) outbox: Weak<Outbox>,
    pub(super) audience: Audience,
    pub(super) tls: Option<Arc<TlsServer>>,
}

impl Reloader {
    /// Takes over what can be, of these settings; certificates and rules are read again in any case.
    ///
    /// # Errors
    /// [`ServiceError`] where something cannot be used. Then nothing is changed.
    pub fn reload(&self, new: &ServiceSettings) -> Result<Reloaded, ServiceError> {
        let before = Arc::clone(&self.live.borrow());
        let (settings, mut reloaded) = mixed(&before.settings, new);
        settings
            .check(Path::new("the settings, with what waits for a restart as it is,"))
            .map_err(ServiceError::Settings)?;
        let rules = load_rules(&settings).map_err(ServiceError::Rules)?.map(Arc::new);
        if rules != before.rules && !reloaded.taken_over.contains(&"rules") {
            reloaded.taken_over.push("rules");
        }
        if let Some(tls) = &self.tls {
            tls.reload().map_err(ServiceError::Tls)?;
        }
        self.door.send_replace(Arc::new(door(&settings)));
        self.pledges.call_back(called_back(&settings));
        if let Some(outbox) = self.outbox.upgrade() {
            outbox.follow(retry_policy(&settings), scu_timeouts(&settings));
        }
        self.audience.replace(settings.notifications.listeners());
        self.live.send_replace(Arc::new(Live { settings, rules }));
        Ok(reloaded)
    }
}

/// The new settings where they may change now, those before everywhere else.
fn mixed(before: &ServiceSettings, new: &ServiceSettings) -> (ServiceSettings, Reloaded) {
    let (mut settings, mut reloaded) = (before.clone(), Reloaded::default());
    macro_rules! take_over {
        ($($key:literal: $($field:ident).+),+ $(,)?) => {
            $(if before.$($field).+ != new.$($field).+ {
                settings.$($field).+ = new.$($field).+.clone();
                reloaded.taken_over.push($key);
            })+
        };
    }
    take_over!(
        "listen.callers": listen.callers,
        "listen.called_ae_title": listen.called_ae_title,
        "listen.storage_classes": listen.storage_classes,
        "series": series,
        "rules": rules,
        "delivery": delivery,
        "retention": retention,
        "commitment": commitment,
        "notifications": notifications,
    );
    let rest = |settings: &ServiceSettings| {
        // What was taken over is equal in both by now.
        let mut rest = settings.clone();
        rest.listen.callers.clone_from(&new.listen.callers);
        rest.listen.called_ae_title = new.listen.called_ae_title;
        rest.listen.storage_classes.clone_from(&new.listen.storage_classes);
        rest.listen
    };
    macro_rules! leave {
        ($($key:literal: $field:ident),+ $(,)?) => {
            $(if before.$field != new.$field {
                reloaded.at_the_next_start.push($key);
            })+
        };
    }
    leave!(
        "ae_title": ae_title,
        "data_dir": data_dir,
        "http": http,
        "audit": audit,
        "network": network,
        "anatomy": anatomy,
        "structure_set": structure_set,
        "destinations": destinations,
        "store": store,
    );
    let seconds = [
        ("stop_grace_s", before.stop_grace_s, new.stop_grace_s),
        ("stop_drain_s", before.stop_drain_s, new.stop_drain_s),
    ];
    let changed = seconds.into_iter().filter(|(_, before, new)| before.total_cmp(new).is_ne());
    reloaded.at_the_next_start.extend(changed.map(|(key, ..)| key));
    if rest(before) != new.listen {
        reloaded.at_the_next_start.push("listen (but callers, called_ae_title, storage_classes)");
    }
    (settings, reloaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a section must say whether it may change: with none forgotten, each change is in one of the lists.
    #[test]
    fn every_section_is_either_taken_over_or_left_for_the_next_start() {
        let before = ServiceSettings::default();
        let yaml = include_str!("../../config/service.yaml");
        let sections: Vec<&str> = yaml
            .lines()
            .filter_map(|line| line.strip_prefix("#: ").unwrap_or(line).split_once(':'))
            .map(|(key, _)| key)
            .filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            .collect();
        let (_, same) = mixed(&before, &before);
        assert_eq!(same, Reloaded::default());
        for section in sections {
            let new = changed(section);
            assert_ne!(new, before, "{section}");
            let (settings, reloaded) = mixed(&before, &new);
            let lists = [&reloaded.taken_over, &reloaded.at_the_next_start].map(|list| list.join(" "));
            assert!(lists.iter().any(|list| list.contains(section)), "{section} is in none of {lists:?}");
            assert_eq!(settings == new, reloaded.at_the_next_start.is_empty(), "{section}");
        }
    }

    /// The defaults with something else in one section.
    fn changed(section: &str) -> ServiceSettings {
        let json = match section {
            "ae_title" => r#""OTHER""#,
            "data_dir" => r#""/x""#,
            "http" => r#""127.0.0.1:1""#,
            "stop_grace_s" | "stop_drain_s" => "7",
            "store" => {
                r#"{"postgres": {"host": "db"}, "s3": {"endpoint": "https://s", "bucket": "b", "access_key_env": "A", "secret_key_env": "B"}}"#
            }
            "listen" => r#"{"port": 7}"#,
            "audit" => r#"{"patients": "none"}"#,
            "series" => r#"{"quiet_time_s": 7}"#,
            "rules" => r#""rules.yaml""#,
            "network" => r#"{"model": "other"}"#,
            "anatomy" => r#"{"mirror": true}"#,
            "structure_set" => r#"{"template": "kopf-hals"}"#,
            "destinations" => r#"[{"peer": "A@b:1"}]"#,
            "delivery" => r#"{"first_retry_s": 7}"#,
            "retention" => r#"{"keep_days": 7}"#,
            "commitment" => r#"{"completes_series": false}"#,
            "notifications" => r#"{"webhooks": [{"url": "https://x/y", "on": ["failure"]}]}"#,
            other => panic!("{other}: say here what may change in it, and in `mixed` whether it may"),
        };
        serde_json::from_str(&format!(r#"{{"{section}": {json}}}"#)).unwrap()
    }

    #[test]
    fn the_door_changes_while_the_rest_of_listen_waits() {
        let before = ServiceSettings::default();
        let mut new = before.clone();
        new.listen.callers = serde_json::from_str(r#"[{"ae_title": "CT1"}]"#).unwrap();
        let (settings, reloaded) = mixed(&before, &new);
        assert_eq!((settings.listen.callers.len(), reloaded.taken_over), (1, vec!["listen.callers"]));
        assert!(reloaded.at_the_next_start.is_empty());
        new.listen.max_associations = 7;
        let (settings, reloaded) = mixed(&before, &new);
        assert_eq!(settings.listen.max_associations, before.listen.max_associations);
        assert_eq!(reloaded.at_the_next_start.len(), 1);
    }
}

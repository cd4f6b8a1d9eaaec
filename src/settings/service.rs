//! The service's settings; config/service.yaml documents every key.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::SettingsError;
use super::audit::AuditSettings;
pub use super::destinations::DestinationSettings;
pub use super::notifications::NotificationSettings;
pub use super::store::StoreSettings;
use super::tls::TlsClientSettings;
use crate::pipeline::anatomy::AnatomySettings;
use crate::pipeline::rtstruct::{Format, NotFound};
use crate::vocabulary::dicom::{AeTitle, Peer};

/// Settings of `oarlock serve`, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSettings {
    /// Our AE title.
    #[serde(deserialize_with = "ae_title")]
    pub ae_title: AeTitle,
    /// Folder of instances, results and the outbox; `None` is the user's data folder.
    pub data_dir: Option<PathBuf>,
    /// Address of metrics and health; `None` switches them off.
    pub http: Option<SocketAddr>,
    /// What the nodes of a cluster share; without it one node works alone, in its data folder.
    pub store: Option<StoreSettings>,
    /// How long associations are still taken after the service was asked to stop, while `/ready` says no, s.
    pub stop_drain_s: f64,
    /// How long the series in work may still take when the service is asked to stop, s.
    pub stop_grace_s: f64,
    /// The Store SCP.
    pub listen: ListenSettings,
    /// The audit trail.
    pub audit: AuditSettings,
    /// When a series is complete.
    pub series: SeriesSettings,
    /// File of the rules that select series; `None` takes all. A relative path is beside the settings' file.
    pub rules: Option<PathBuf>,
    /// The network.
    pub network: NetworkSettings,
    /// What is held against the organs that it finds.
    pub anatomy: AnatomySettings,
    /// What structure sets look like.
    pub structure_set: StructureSetSettings,
    /// Where structure sets go.
    pub destinations: Vec<DestinationSettings>,
    /// How they go there.
    pub delivery: DeliverySettings,
    /// How long files are kept.
    pub retention: RetentionSettings,
    /// Storage commitment for what is sent to us.
    pub commitment: CommitmentSettings,
    /// Who is told of what happens.
    pub notifications: NotificationSettings,
}

/// Storage commitment for what is sent to us.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitmentSettings {
    /// Who gets the report over an association of ours.
    pub report_to: Vec<ReportToSettings>,
    /// Whether a series is complete when its sender asks for the commitment of all that is here of it.
    pub completes_series: bool,
}

/// A peer that is called to report a storage commitment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportToSettings {
    /// AE title of the one that asks.
    #[serde(deserialize_with = "ae_title")]
    pub ae_title: AeTitle,
    /// `AET@HOST:PORT` that takes the report.
    #[serde(deserialize_with = "peer")]
    pub peer: Peer,
    /// Over TLS with these files; without it in the clear.
    #[serde(default)]
    pub tls: Option<TlsClientSettings>,
}

/// How long the files of a series are kept with which nothing is left to do; for ever without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// So long after they last changed, days.
    pub keep_days: Option<f64>,
    /// While the data folder holds less than this, GB (10^9 bytes); the oldest go first.
    pub max_gb: Option<f64>,
}

/// The Store SCP.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSettings {
    /// Address to listen on.
    pub address: IpAddr,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Which called AE titles are taken.
    pub called_ae_title: CalledAeTitle,
    /// Who may call; empty takes everybody, which only a loopback address allows.
    pub callers: Vec<CallerSettings>,
    /// What may be stored.
    #[serde(deserialize_with = "storage_classes")]
    pub storage_classes: Vec<StorageClass>,
    /// TLS; without it everything is said in the clear.
    pub tls: Option<ListenTls>,
    /// Where peers may call without TLS.
    pub plaintext: Plaintext,
    /// Associations at a time.
    pub max_associations: usize,
    /// Associations at a time of one AE title at one address.
    pub max_associations_per_caller: usize,
    /// Connections at a time from one address.
    pub max_connections_per_address: usize,
    /// The longest data set, MB (10^6 bytes).
    pub max_instance_mb: usize,
    /// All data sets that are being received, MB (10^6 bytes).
    pub max_in_hand_mb: usize,
    /// What must stay free on the disk, MB (10^6 bytes).
    pub min_free_mb: u64,
    /// What must be free for a series to begin, MB (10^6 bytes); `None` is twice `min_free_mb`.
    pub new_series_free_mb: Option<u64>,
    /// From the connection to the end of the association request, s (ARTIM).
    pub request_timeout_s: f64,
    /// For a whole PDU to come or to go, s.
    pub idle_timeout_s: f64,
    /// For a whole message, s.
    pub message_timeout_s: f64,
    /// For a whole association, s.
    pub association_timeout_s: f64,
}

/// TLS of the Store SCP; all files are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// Our certificate, and after it those between it and its root.
    pub certificate: PathBuf,
    /// Its private key, without a password.
    pub key: PathBuf,
    /// What peers must show.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// The authorities of their certificates.
    #[serde(default)]
    pub client_authorities: Option<PathBuf>,
}

/// What a peer that calls over TLS must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// A certificate.
    #[default]
    Required,
    /// A good certificate, or none.
    Optional,
    /// Nothing.
    Off,
}

/// Where peers may call without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plaintext {
    /// On this machine only.
    Loopback,
    /// Over the network: whoever can listen there reads along, and can claim any AE title.
    Anywhere,
}

/// Which called AE titles are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalledAeTitle {
    /// Any.
    Any,
    /// Ours only.
    Own,
}

/// A peer that may call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerSettings {
    /// Its AE title.
    #[serde(deserialize_with = "ae_title")]
    pub ae_title: AeTitle,
    /// The address or network it must call from; any without it.
    #[serde(default, deserialize_with = "network")]
    pub address: Option<IpNet>,
}

/// A kind of instance that may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageClass {
    /// Every storage class of the standard.
    Any,
    /// This SOP class.
    Uid(String),
}

/// When a series is complete.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeriesSettings {
    /// Nothing new for this long, s.
    pub quiet_time_s: f64,
    /// The same where something is known to be missing, s; never less than the quiet time.
    pub incomplete_wait_s: f64,
    /// Archives that are asked how many instances a series has.
    pub ask: Vec<AskSettings>,
}

/// An archive that is asked about the series of a sender.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskSettings {
    /// AE title of the sender.
    #[serde(deserialize_with = "ae_title")]
    pub ae_title: AeTitle,
    /// `AET@HOST:PORT` of the archive.
    #[serde(deserialize_with = "peer")]
    pub peer: Peer,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Name of the model.
    pub model: String,
}

/// What structure sets look like.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StructureSetSettings {
    /// Name of a shipped structure template, or a file.
    pub template: String,
    /// What becomes of organs that were not found.
    pub not_found: NotFound,
}

/// How structure sets go out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliverySettings {
    /// To take our connection, s.
    pub connect_timeout_s: f64,
    /// To answer a request, s.
    pub answer_timeout_s: f64,
    /// Before the second attempt, s; each further one waits twice as long.
    pub first_retry_s: f64,
    /// The longest wait between attempts, s.
    pub longest_retry_s: f64,
    /// When an undelivered structure set is given up and kept with its reason, h.
    pub give_up_after_h: f64,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            ae_title: "OARLOCK".parse().expect("seven letters"),
            data_dir: None,
            http: None,
            store: None,
            stop_drain_s: 0.0,
            stop_grace_s: 30.0,
            listen: ListenSettings::default(),
            audit: AuditSettings::default(),
            series: SeriesSettings::default(),
            rules: None,
            network: NetworkSettings::default(),
            anatomy: AnatomySettings::default(),
            structure_set: StructureSetSettings::default(),
            destinations: Vec::new(),
            delivery: DeliverySettings::default(),
            retention: RetentionSettings::default(),
            commitment: CommitmentSettings::default(),
            notifications: NotificationSettings::default(),
        }
    }
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 11_112,
            called_ae_title: CalledAeTitle::Any,
            callers: Vec::new(),
            storage_classes: NAMED_CLASSES
                .iter()
                .map(|(_, uid)| StorageClass::Uid((*uid).to_owned()))
                .collect(),
            tls: None,
            plaintext: Plaintext::Loopback,
            max_associations: 32,
            max_associations_per_caller: 16,
            max_connections_per_address: 128,
            max_instance_mb: 1_024,
            max_in_hand_mb: 2_048,
            min_free_mb: 2_000,
            new_series_free_mb: None,
            request_timeout_s: 10.0,
            idle_timeout_s: 60.0,
            message_timeout_s: 600.0,
            association_timeout_s: 86_400.0,
        }
    }
}

impl Default for StructureSetSettings {
    fn default() -> Self {
        Self { template: super::USUAL_TEMPLATE.to_owned(), not_found: NotFound::default() }
    }
}

impl Default for SeriesSettings {
    fn default() -> Self {
        Self { quiet_time_s: 30.0, incomplete_wait_s: 300.0, ask: Vec::new() }
    }
}

impl Default for CommitmentSettings {
    fn default() -> Self {
        Self { report_to: Vec::new(), completes_series: true }
    }
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { model: "starter".to_owned() }
    }
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            connect_timeout_s: 10.0,
            answer_timeout_s: 60.0,
            first_retry_s: 10.0,
            longest_retry_s: 900.0,
            give_up_after_h: 72.0,
        }
    }
}

/// Names for the classes that matter here, and their UIDs (PS3.4 B.5).
const NAMED_CLASSES: [(&str, &str); 4] = [
    ("ct", "1.2.840.10008.5.1.4.1.1.2"),
    ("enhanced_ct", "1.2.840.10008.5.1.4.1.1.2.1"),
    ("legacy_enhanced_ct", "1.2.840.10008.5.1.4.1.1.2.2"),
    ("rt_structure_set", "1.2.840.10008.5.1.4.1.1.481.3"),
];

/// Why a text names no storage class.
#[derive(Debug, thiserror::Error)]
#[error(
    "a storage class is ct, enhanced_ct, legacy_enhanced_ct, rt_structure_set, any, or a SOP Class UID; found {0:?}"
)]
pub struct InvalidStorageClass(String);

impl FromStr for StorageClass {
    type Err = InvalidStorageClass;

    fn from_str(text: &str) -> Result<Self, InvalidStorageClass> {
        if text == "any" {
            return Ok(Self::Any);
        }
        if let Some((_, uid)) = NAMED_CLASSES.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Uid((*uid).to_owned()));
        }
        let uid = crate::vocabulary::dicom::SopClassUid::parse(text).ok().filter(|_| text.contains('.'));
        uid.map(|uid| Self::Uid(uid.to_string())).ok_or_else(|| InvalidStorageClass(text.to_owned()))
    }
}

impl ServiceSettings {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key and what is allowed.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let read = |source| SettingsError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mut settings: Self = super::yaml::from_str(&text)
            .map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
        let beside = path.parent().unwrap_or(Path::new(""));
        settings.rules = settings.rules.map(|rules| beside.join(rules));
        settings.check(path)?;
        Ok(settings)
    }

    /// Checks what serde cannot: ranges, and that the open network is guarded. `origin` is named in errors.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub fn check(&self, origin: &Path) -> Result<(), SettingsError> {
        let value = |key, found: &dyn Display, allowed| {
            Err(SettingsError::Value { path: origin.to_owned(), key, found: found.to_string(), allowed })
        };
        let durations = [
            ("stop_grace_s", self.stop_grace_s),
            ("listen.request_timeout_s", self.listen.request_timeout_s),
            ("listen.idle_timeout_s", self.listen.idle_timeout_s),
            ("listen.message_timeout_s", self.listen.message_timeout_s),
            ("listen.association_timeout_s", self.listen.association_timeout_s),
            ("series.quiet_time_s", self.series.quiet_time_s),
            ("series.incomplete_wait_s", self.series.incomplete_wait_s),
            ("delivery.connect_timeout_s", self.delivery.connect_timeout_s),
            ("delivery.answer_timeout_s", self.delivery.answer_timeout_s),
            ("delivery.first_retry_s", self.delivery.first_retry_s),
            ("delivery.longest_retry_s", self.delivery.longest_retry_s),
            ("delivery.give_up_after_h", self.delivery.give_up_after_h),
        ];
        for (key, found) in durations {
            if !(0.001..=1e6).contains(&found) {
                return value(key, &found, "0.001 to 1000000");
            }
        }
        if !(0.0..=1e6).contains(&self.stop_drain_s) {
            return value("stop_drain_s", &self.stop_drain_s, "0 to 1000000");
        }
        if let Some(store) = &self.store {
            store.check(origin)?;
            if let Some(limit) = self.retention.max_gb {
                let allowed =
                    "no limit with store, where retention.keep_days is the one: the bucket is shared";
                return value("retention.max_gb", &limit, allowed);
            }
        }
        let listen = &self.listen;
        if !(1..=1_000).contains(&listen.max_associations) {
            return value("listen.max_associations", &listen.max_associations, "1 to 1000");
        }
        for (key, found) in [
            ("listen.max_associations_per_caller", listen.max_associations_per_caller),
            ("listen.max_connections_per_address", listen.max_connections_per_address),
        ] {
            if !(1..=1_000).contains(&found) {
                return value(key, &found, "1 to 1000");
            }
        }
        if !(1..=4_096).contains(&listen.max_instance_mb) {
            return value("listen.max_instance_mb", &listen.max_instance_mb, "1 to 4096");
        }
        if let Some(name) = super::destinations::repeated_name(&self.destinations) {
            return value("destinations", &name, "each name (or peer) once");
        }
        let asking: Vec<_> = self.commitment.report_to.iter().map(|to| &to.ae_title).collect();
        if let Some((_, title)) = asking.iter().enumerate().find(|(n, title)| asking[..*n].contains(title)) {
            return value("commitment.report_to", title, "each ae_title once");
        }
        if !(listen.max_instance_mb..=1_000_000).contains(&listen.max_in_hand_mb) {
            return value(
                "listen.max_in_hand_mb",
                &listen.max_in_hand_mb,
                "listen.max_instance_mb to 1000000",
            );
        }
        let kept =
            [("retention.keep_days", self.retention.keep_days), ("retention.max_gb", self.retention.max_gb)];
        for (key, limit) in kept {
            if let Some(limit) = limit.filter(|limit| !(*limit > 0.0 && limit.is_finite())) {
                return value(key, &limit, "above zero");
            }
        }
        if !listen.address.is_loopback() && listen.callers.is_empty() {
            let allowed = "at least one caller, because listen.address is not loopback";
            return value("listen.callers", &"empty", allowed);
        }
        if !listen.address.is_loopback() && listen.tls.is_none() && listen.plaintext == Plaintext::Loopback {
            let allowed = "listen.tls, or anywhere, because listen.address is not loopback";
            return value("listen.plaintext", &"loopback, without listen.tls", allowed);
        }
        if let Some(tls) = &listen.tls
            && (tls.client_certificates == ClientCertificates::Off) != tls.client_authorities.is_none()
        {
            let found =
                tls.client_authorities.as_ref().map_or("none".to_owned(), |p| p.display().to_string());
            let allowed = "a file, and none where listen.tls.client_certificates is off";
            return value("listen.tls.client_authorities", &found, allowed);
        }
        Ok(())
    }

    /// How structure sets are written for a destination.
    #[must_use]
    pub fn format_of(&self, destination: &DestinationSettings) -> Format {
        destination.format.resolved(self.structure_set.not_found)
    }

    /// Every form in which a destination wants structure sets, once.
    #[must_use]
    pub fn formats(&self) -> Vec<Format> {
        let mut formats: Vec<Format> = Vec::new();
        for format in self.destinations.iter().map(|destination| self.format_of(destination)) {
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        formats
    }

    /// The folder of instances, results and the outbox.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        let usual =
            || directories::ProjectDirs::from("", "", "oarlock").map(|dirs| dirs.data_dir().join("service"));
        self.data_dir.clone().or_else(usual).unwrap_or_else(|| PathBuf::from("oarlock-data"))
    }
}

/// Seconds that [`ServiceSettings::check`] has passed, as a duration.
#[must_use]
pub fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)
}

fn ae_title<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AeTitle, D::Error> {
    parsed("ae_title", &String::deserialize(deserializer)?)
}

fn peer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Peer, D::Error> {
    parsed("peer", &String::deserialize(deserializer)?)
}

/// An address, or a network as 10.0.0.0/24.
fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Some(address.to_canonical().into())),
        Err(_no_address) => parsed("address", &text).map(Some),
    }
}

fn storage_classes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<StorageClass>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| parsed("storage_classes", text)).collect()
}

fn parsed<T: FromStr<Err: Display>, E: serde::de::Error>(key: &str, text: &str) -> Result<T, E> {
    text.parse().map_err(|error| E::custom(format_args!("{key}: {error}")))
}

#[cfg(test)]
mod tests;

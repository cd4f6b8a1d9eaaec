//! What the settings say, in the words of the rooms below.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::audit::AuditTrail;
use super::cluster;
use super::worker::Outlet;
use crate::pipeline::delivery::{RetryPolicy, ScuTimeouts};
use crate::pipeline::ingest::{
    Caller, Callers, Door, ListenerLimits, ListenerOptions, Pledges, SpoolLimits, StorageClasses,
};
use crate::pipeline::rtstruct::Format;
use crate::pipeline::series::Patience;
use crate::pipeline::tls::{ClientCertificates, TlsError, TlsServer, TlsServerFiles};
use crate::settings::service::{
    self as settings_of, CalledAeTitle, DestinationSettings, ServiceSettings, StorageClass, seconds,
};
use crate::vocabulary::dicom::AeTitle;

pub(super) fn spool_limits(settings: &ServiceSettings) -> SpoolLimits {
    let max_bytes = u64::try_from(max_instance_bytes(settings)).unwrap_or(u64::MAX);
    let min_free_mb = settings.listen.min_free_mb;
    SpoolLimits {
        min_free_mb,
        new_series_free_mb: settings.listen.new_series_free_mb.unwrap_or(min_free_mb.saturating_mul(2)),
        max_inflated_bytes: max_bytes,
    }
}

fn max_instance_bytes(settings: &ServiceSettings) -> usize {
    settings.listen.max_instance_mb.saturating_mul(1_000_000)
}

/// TLS of the Store SCP as the settings say, its files read.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub fn tls_server(settings: &ServiceSettings) -> Result<Option<TlsServer>, TlsError> {
    let Some(tls) = &settings.listen.tls else { return Ok(None) };
    let authorities = tls.client_authorities.clone().unwrap_or_default();
    let client_certificates = match tls.client_certificates {
        settings_of::ClientCertificates::Required => ClientCertificates::Required(authorities),
        settings_of::ClientCertificates::Optional => ClientCertificates::Optional(authorities),
        settings_of::ClientCertificates::Off => ClientCertificates::Off,
    };
    let (certificate, key) = (tls.certificate.clone(), tls.key.clone());
    TlsServer::load(TlsServerFiles { certificate, key, client_certificates }).map(Some)
}

pub(super) fn listener_options(
    settings: &ServiceSettings,
    tls: Option<Arc<TlsServer>>,
    door: watch::Receiver<Arc<Door>>,
    (pledges, audit): (&Arc<Pledges>, &AuditTrail),
) -> ListenerOptions {
    let listen = &settings.listen;
    ListenerOptions {
        tls,
        door,
        witness: audit.witness(),
        pledges: Arc::clone(pledges),
        limits: ListenerLimits {
            max_associations: listen.max_associations,
            max_associations_per_caller: listen.max_associations_per_caller,
            max_connections_per_address: listen.max_connections_per_address,
            max_instance_bytes: max_instance_bytes(settings),
            max_in_hand_bytes: listen.max_in_hand_mb.saturating_mul(1_000_000),
            request_timeout: seconds(listen.request_timeout_s),
            idle_timeout: seconds(listen.idle_timeout_s),
            message_timeout: seconds(listen.message_timeout_s),
            association_timeout: seconds(listen.association_timeout_s),
        },
    }
}

/// Who comes in, as the settings say.
pub(super) fn door(settings: &ServiceSettings) -> Door {
    let listen = &settings.listen;
    let callers = listen.callers.iter().map(|c| Caller { ae_title: c.ae_title.clone(), network: c.address });
    let uids = listen.storage_classes.iter().filter_map(|class| match class {
        StorageClass::Any => None,
        StorageClass::Uid(uid) => Some(uid.clone()),
    });
    Door {
        called: (listen.called_ae_title == CalledAeTitle::Own).then(|| settings.ae_title.clone()),
        callers: if listen.callers.is_empty() { Callers::Any } else { Callers::Listed(callers.collect()) },
        storage_classes: if listen.storage_classes.contains(&StorageClass::Any) {
            StorageClasses::Any
        } else {
            StorageClasses::Listed(uids.collect())
        },
    }
}

/// When what was not delivered is tried again, and when not any more.
pub(super) fn retry_policy(settings: &ServiceSettings) -> RetryPolicy {
    let delivery = &settings.delivery;
    RetryPolicy {
        first: seconds(delivery.first_retry_s),
        longest: seconds(delivery.longest_retry_s),
        give_up_after: seconds(delivery.give_up_after_h * 3_600.0),
    }
}

/// Who gets the report of a storage commitment over an association of ours.
pub(super) fn called_back(settings: &ServiceSettings) -> BTreeSet<AeTitle> {
    settings.commitment.report_to.iter().map(|to| to.ae_title.clone()).collect()
}

pub(super) fn outlets(settings: &ServiceSettings) -> Vec<Outlet> {
    let outlet = |d: &DestinationSettings| {
        let format = settings.format_of(d);
        Outlet { to: d.to.clone(), format: (format != Format::default()).then(|| format.id()) }
    };
    settings.destinations.iter().map(outlet).collect()
}

pub(super) fn patience(settings: &ServiceSettings) -> Patience {
    let quiet = seconds(settings.series.quiet_time_s);
    Patience {
        quiet: if settings.store.is_some() { quiet.max(cluster::SHORTEST_QUIET) } else { quiet },
        incomplete: seconds(settings.series.incomplete_wait_s),
        answer: seconds(settings.delivery.connect_timeout_s + settings.delivery.answer_timeout_s),
    }
}

/// How long peers may take, by the settings.
#[must_use]
pub fn scu_timeouts(settings: &ServiceSettings) -> ScuTimeouts {
    let delivery = &settings.delivery;
    ScuTimeouts { connect: seconds(delivery.connect_timeout_s), answer: seconds(delivery.answer_timeout_s) }
}

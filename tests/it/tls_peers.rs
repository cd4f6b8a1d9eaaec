//! What we call over TLS, with real programs at the other end: dcmtk, PostgreSQL, and an S3 server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use oarlock::pipeline::delivery::Receipt;
use oarlock::service::store::{Delivery, DeliveryState, Place, Store};
use oarlock::service::{Service, objects_of};
use oarlock::settings::service::{ClientCertificates, DestinationSettings, ReportToSettings};
use oarlock::settings::store::StoreSettings;
use serde_json::{Value, json};

use crate::cluster::Bucket;
use crate::destinations::{deliver, destination, structure_set};
use crate::pki::{Authority, Issued, Validity};
use crate::postgres::Server;
use crate::security::{listen_tls, tls_service};
use crate::service::{contourer, send};
use crate::support::{Process, all_jobs, free_port, peer, stored};
use crate::wire::{all_files, service, wait_for};

/// A hospital's authority, and one that nobody there has heard of.
fn authorities(folder: &Path) -> (Authority, Authority) {
    (Authority::new(folder, "hospital"), Authority::new(folder, "stranger"))
}

fn tls(believes: &Authority, shows: Option<&Issued>) -> Value {
    let certificate = shows.map(|issued| json!({"file": issued.certificate, "key": issued.key}));
    json!({"authorities": believes.certificate, "certificate": certificate})
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// dcmtk's storescp with OpenSSL, which takes only whom the hospital's authority has signed.
fn storescp(received: &Path, hospital: &Authority) -> Option<(Process, u16)> {
    let storescp = peer("tls", "storescp")?;
    let (theirs, port) = (hospital.issue("pacs", Validity::Now), free_port());
    std::fs::create_dir_all(received).unwrap();
    let mut command = Command::new(storescp);
    command.arg("+tls").args([&theirs.key, &theirs.certificate]).arg("+cf").arg(&hospital.certificate);
    let process = Process(command.arg("-od").arg(received).arg(port.to_string()).spawn().unwrap());
    wait_for("storescp", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    Some((process, port))
}

/// A service that contours at once and delivers there.
fn delivering(folder: &Path, port: u16, tls: &Value) -> Service {
    service(folder, contourer(&Arc::new(AtomicUsize::new(0))), |s| {
        s.series.quiet_time_s = 0.3;
        s.delivery.first_retry_s = 0.05;
        s.delivery.longest_retry_s = 0.2;
        let to = json!({"peer": format!("PACS@127.0.0.1:{port}"), "tls": tls});
        s.destinations = vec![serde_json::from_value::<DestinationSettings>(to).unwrap()];
    })
}

/// The one delivery of a service, when it was tried.
fn tried(folder: &Path) -> Delivery {
    wait_for("an attempt", || {
        let jobs = stored(folder, all_jobs);
        let delivery = jobs.first()?.versions.first()?.deliveries.first()?.clone();
        (delivery.attempts > 0 || delivery.state == DeliveryState::Delivered).then_some(delivery)
    })
}

#[test]
fn a_delivery_goes_over_tls_to_a_peer_that_is_believed_and_believes_us() {
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) = authorities(folder.path());
    let received = folder.path().join("received");
    let Some((_storescp, port)) = storescp(&received, &hospital) else { return };
    let right = hospital.issue("oarlock", Validity::Now);
    let wrong = stranger.issue("oarlock", Validity::Now);
    for (name, tls, reason) in [
        ("another authority", tls(&stranger, Some(&right)), "UnknownIssuer"),
        ("no certificate of ours", tls(&hospital, None), "received fatal alert"),
        ("a certificate that nobody knows", tls(&hospital, Some(&wrong)), "received fatal alert"),
        ("as it should be", tls(&hospital, Some(&right)), ""),
    ] {
        let data = folder.path().join(name);
        let running = delivering(&data, port, &tls);
        send(&running, &["1.2.60"]);
        let delivery = tried(&data);
        running.stop();
        let error = delivery.last_error.unwrap_or_default();
        if reason.is_empty() {
            wait_for("delivery", || (all_files(&received).len() == 1).then_some(()));
            assert_eq!(tried(&data).state, DeliveryState::Delivered, "{error}");
        } else {
            assert_eq!(delivery.state, DeliveryState::Pending, "{name}");
            assert!(error.contains("no TLS handshake") && error.contains(reason), "{name}: {error}");
            assert_eq!(all_files(&received).len(), 0, "{name}");
        }
    }
}

/// We ask over TLS and are called back over TLS, each side with a certificate.
#[test]
fn storage_commitment_is_asked_for_and_reported_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (hospital, _) = authorities(folder.path());
    let (ours, theirs) = (hospital.issue("oarlock", Validity::Now), hospital.issue("pacs", Validity::Now));
    let required = ClientCertificates::Required;
    let asking = tls_service(&folder.path().join("asking"), &ours, required, &hospital);
    let asked = service(&folder.path().join("asked"), None, |s| {
        s.listen.tls = Some(listen_tls(&theirs, required, &hospital));
        let to = json!({"ae_title": "TEST", "peer": format!("TEST@{}", asking.address()),
            "tls": tls(&hospital, Some(&theirs))});
        s.commitment.report_to = vec![serde_json::from_value::<ReportToSettings>(to).unwrap()];
    });
    let to = destination(&json!({"peer": format!("ANY@{}", asked.address()), "commitment_wait_s": 10,
        "tls": tls(&hospital, Some(&ours))}));
    assert_eq!(deliver(&to, &structure_set("1.2.80")).unwrap(), Receipt::default());
    asked.stop();
    asking.stop();
}

fn store_settings(folder: &Path, postgres: Value, s3: Value) -> StoreSettings {
    for (name, text) in [("access", "AKIA\n"), ("secret", "s3cret\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let mut bucket = json!({"bucket": "oarlock", "access_key_file": folder.join("access"),
        "secret_key_file": folder.join("secret")});
    bucket.as_object_mut().unwrap().extend(s3.as_object().unwrap().clone());
    serde_json::from_value(json!({"postgres": postgres, "s3": bucket})).unwrap()
}

/// What comes of opening the database that these settings name.
fn opened(folder: &Path, postgres: Value) -> Result<Store, String> {
    let settings = store_settings(folder, postgres, json!({"endpoint": "http://127.0.0.1:1"}));
    let place = Place::Server(settings.postgres.url().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let opened = runtime.block_on(Store::open(&place)).map_err(|error| said(&error));
    // The pool keeps its connections, which live on it.
    std::mem::forget(runtime);
    opened
}

#[test]
fn a_database_is_believed_by_the_authority_that_is_named_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) = authorities(folder.path());
    let Some(mut server) = Server::start(folder.path()) else { return };
    let port = server.port;
    let parts = |authority: &Authority| {
        json!({"host": "127.0.0.1", "port": port, "database": "postgres", "user": "oarlock",
            "ca_file": authority.certificate})
    };
    let plain = opened(folder.path(), parts(&hospital)).unwrap_err();
    assert!(plain.contains("server does not support TLS") && plain.contains("ssl = on"), "{plain}");
    let right = parts(&hospital);
    let wrong = parts(&stranger);
    server.speak_tls(&hospital.issue("database", Validity::Now));
    let store = opened(folder.path(), right).unwrap();
    let encrypted = server.ask("SELECT COUNT(*) FROM pg_stat_ssl WHERE ssl AND pid <> pg_backend_pid()");
    assert_ne!(encrypted.trim(), "0");
    drop(store);
    let url = folder.path().join("url");
    let root = stranger.certificate.display();
    std::fs::write(&url, format!("{}?sslmode=verify-full&sslrootcert={root}", server.url())).unwrap();
    for postgres in [wrong, json!({"url_file": url})] {
        let refused = opened(folder.path(), postgres).unwrap_err();
        assert!(refused.contains("UnknownIssuer") && refused.contains("ca_file"), "{refused}");
    }
}

#[test]
fn an_object_store_is_believed_by_the_authority_that_is_named_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) = authorities(folder.path());
    let (Some(socat), Some(bucket)) = (peer("tls", "socat"), Bucket::start(folder.path())) else { return };
    let (issued, port) = (hospital.issue("s3", Validity::Now), free_port());
    let (certificate, key) = (issued.certificate.display(), issued.key.display());
    let listen =
        format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,cert={certificate},key={key},verify=0,reuseaddr,fork");
    let before = format!("TCP:127.0.0.1:{}", bucket.port);
    let _proxy = Process(Command::new(socat).args([&listen, &before]).spawn().unwrap());
    wait_for("the proxy", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let probe = |authority: Option<&Authority>| {
        let mut s3 = json!({"endpoint": format!("https://127.0.0.1:{port}")});
        if let Some(authority) = authority {
            s3["ca_file"] = json!(authority.certificate);
        }
        let settings = store_settings(folder.path(), json!({"url_file": "/nowhere"}), s3);
        objects_of(&settings).unwrap().probe("me").map_err(|error| said(&error))
    };
    probe(Some(&hospital)).unwrap();
    for authority in [Some(&stranger), None] {
        let refused = probe(authority).unwrap_err();
        assert!(refused.contains("UnknownIssuer") && refused.contains("ca_file"), "{refused}");
    }
}

//! `oarlock check`.
//!
//! Exit code 0: nothing stands in the way. 1: something does, and each line says what to do. 2: wrong arguments.

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::CheckArgs;
use crate::engine::runtime::library;
use crate::engine::runtime::session::Runtime;
use crate::learning::model::ModelRegistry;
use crate::pipeline::delivery::{Destination, Way};
use crate::pipeline::ingest::free_mb;
use crate::service::store::{DeliveryState, JobState, Place, Store, StoreError, now_ms};
use crate::service::{objects_of, place, scu_timeouts, tls_server};
use crate::settings::service::ReportToSettings;
use crate::settings::{ServiceSettings, Template, load_rules};
use crate::vocabulary::causes::with_causes;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Works, but look at it.
    Note,
    /// Stands in the way.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    text: String,
}

impl Finding {
    fn ok(subject: &'static str, text: impl ToString) -> Self {
        Self { subject, verdict: Verdict::Ok, text: text.to_string() }
    }

    fn note(subject: &'static str, text: impl ToString) -> Self {
        Self { subject, verdict: Verdict::Note, text: text.to_string() }
    }

    fn bad(subject: &'static str, text: impl ToString) -> Self {
        Self { subject, verdict: Verdict::Bad, text: text.to_string() }
    }
}

/// Runs the command.
pub(super) fn run(args: CheckArgs, runtime: &RuntimeChoice) -> CommandResult {
    if let Some(series) = &args.explain {
        return super::explain::run(&args, series);
    }
    let mut findings = Vec::new();
    let settings = settings(args.config.as_deref(), &mut findings);
    if let Some(settings) = &settings {
        findings.push(data_folder(settings));
        findings.push(disk(settings));
        findings.push(database(settings)?);
        findings.extend(object_store(settings));
        findings.push(open_door(settings));
        findings.push(secrecy(settings));
        findings.push(model(settings));
        findings.extend(rules(settings));
        findings.extend(peers(settings)?);
        findings.extend(reports(settings)?);
    }
    findings.push(onnx_runtime(runtime));
    findings.push(clock());
    if args.json {
        say(serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Note => "note",
                Verdict::Bad => "BAD ",
            };
            say(format_args!("{mark}  {}: {}", finding.subject, finding.text));
        }
    }
    let is_bad = findings.iter().any(|f| f.verdict == Verdict::Bad);
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn settings(path: Option<&Path>, findings: &mut Vec<Finding>) -> Option<ServiceSettings> {
    let Some(path) = path else {
        findings.push(Finding::ok("settings", "none given, so the defaults of config/service.yaml"));
        return Some(ServiceSettings::default());
    };
    match ServiceSettings::load(path) {
        Ok(settings) => {
            findings.push(Finding::ok("settings", path.display()));
            Some(settings)
        }
        Err(error) => {
            findings.push(Finding::bad("settings", with_causes(&error)));
            None
        }
    }
}

fn data_folder(settings: &ServiceSettings) -> Finding {
    let folder = settings.data_folder();
    let probe = std::fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder));
    match probe {
        Ok(_removed_when_closed) => {
            Finding::ok("data folder", format_args!("{} can be written", folder.display()))
        }
        Err(error) => Finding::bad(
            "data folder",
            format_args!(
                "{} cannot be written ({error}): give it to this user, or set data_dir",
                folder.display()
            ),
        ),
    }
}

fn disk(settings: &ServiceSettings) -> Finding {
    let (folder, wanted_mb) = (settings.data_folder(), settings.listen.min_free_mb);
    match free_mb(&folder) {
        Ok(free) if free < wanted_mb => Finding::bad(
            "disk",
            format_args!(
                "{free} MB are free, below listen.min_free_mb = {wanted_mb}: instances are refused (A700H)"
            ),
        ),
        Ok(free) if free < wanted_mb.saturating_mul(5) => Finding::note(
            "disk",
            format_args!("{free} MB are free; below {wanted_mb} MB instances are refused"),
        ),
        Ok(free) => Finding::ok("disk", format_args!("{free} MB are free")),
        Err(error) => Finding::bad("disk", format_args!("{} cannot be measured: {error}", folder.display())),
    }
}

/// Whether the database of the data folder answers, and what in it waits for a person.
fn database(settings: &ServiceSettings) -> std::io::Result<Finding> {
    let place = match place(settings) {
        Ok(place) => place,
        Err(error) => return Ok(Finding::bad("database", with_causes(&error))),
    };
    if let Place::File(path) = &place
        && !path.is_file()
    {
        return Ok(Finding::ok("database", "none yet: it is made at the first start"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counted = runtime.block_on(async {
        let store = Store::open_existing(&place).await?;
        if settings.store.is_some() {
            store.probe().await?;
        }
        let now_ms = now_ms();
        let alive = store.nodes().await?.into_iter().filter(|node| node.alive_until_ms >= now_ms).count();
        let jobs = store.job_counts().await?;
        let deliveries = store.delivery_counts().await?;
        let peers: Vec<_> = settings.destinations.iter().map(|d| &d.to).collect();
        let elsewhere = store.pending_elsewhere(&peers).await?;
        store.close().await;
        Ok::<_, StoreError>((jobs, deliveries, elsewhere, alive))
    });
    let (jobs, deliveries, elsewhere, alive) = match counted {
        Ok(counted) => counted,
        Err(error) => return Ok(Finding::bad("database", with_causes(&error))),
    };
    let n = |wanted| jobs.iter().find(|(state, _)| *state == wanted).map_or(0, |(_, n)| *n);
    let of = |wanted| deliveries.iter().find(|(state, _)| *state == wanted).map_or(0, |(_, n)| *n);
    let (failed, given_up, held) = (n(JobState::Failed), of(DeliveryState::Failed), of(DeliveryState::Held));
    let mut notes = Vec::new();
    if failed + given_up + held > 0 {
        notes.push(format!(
            "{failed} jobs failed, {given_up} deliveries given up, {held} held back: `oarlock jobs list` shows them"
        ));
    }
    for (destination, n) in elsewhere {
        notes.push(format!("{n} deliveries wait for {destination}, which the settings do not name"));
    }
    if notes.is_empty() {
        let nodes =
            if settings.store.is_some() { format!(", {alive} nodes work on it") } else { String::new() };
        return Ok(Finding::ok("database", format_args!("{place} answers{nodes}")));
    }
    Ok(Finding::note("database", notes.join("; ")))
}

/// Whether the bucket does everything that the nodes of a cluster need; tried with an object of its own.
fn object_store(settings: &ServiceSettings) -> Option<Finding> {
    let shared = settings.store.as_ref()?;
    let unique = format!("check-{}", uuid::Uuid::new_v4().simple());
    let tried = objects_of(shared)
        .map_err(|error| with_causes(&error))
        .and_then(|objects| objects.probe(&unique).map_err(|error| with_causes(&error)));
    Some(match tried {
        Ok(()) => Finding::ok(
            "object store",
            format_args!("{}: writes, reads, lists, moves, removes, and keeps what is there", shared.s3),
        ),
        Err(error) => Finding::bad("object store", error),
    })
}

fn open_door(settings: &ServiceSettings) -> Finding {
    let listen = &settings.listen;
    if listen.address.is_loopback() {
        return Finding::ok("callers", "only this machine can call (listen.address is loopback)");
    }
    let n_anywhere = listen.callers.iter().filter(|c| c.address.is_none()).count();
    let text =
        format!("{} callers on {}, {n_anywhere} from any address", listen.callers.len(), listen.address);
    if n_anywhere > 0 { Finding::note("callers", text) } else { Finding::ok("callers", text) }
}

fn secrecy(settings: &ServiceSettings) -> Finding {
    match tls_server(settings) {
        Ok(Some(_loaded)) => {
            Finding::ok("TLS", "certificate, key and authorities of listen.tls fit together")
        }
        Ok(None) if settings.listen.address.is_loopback() => Finding::ok("TLS", "off, on this machine only"),
        Ok(None) => {
            Finding::note("TLS", "off: whoever is on the network reads along and can claim any AE title")
        }
        Err(error) => Finding::bad("TLS", with_causes(&error)),
    }
}

fn model(settings: &ServiceSettings) -> Finding {
    match ModelRegistry::usual().load(&settings.network.model) {
        Ok(model) => {
            let doubt = match model.calibration {
                Some(_) => "with the calibration of its doubt",
                None => "without a calibration: which organs to check is told by rules only",
            };
            let text = format!("{} {}, {doubt}", settings.network.model, model.fingerprint());
            Finding::ok("model", text)
        }
        Err(error) => Finding::bad("model", with_causes(&error)),
    }
}

/// Rules, and whether the models and templates that they name are here.
fn rules(settings: &ServiceSettings) -> Vec<Finding> {
    let rules = match load_rules(settings) {
        Ok(None) => return Vec::new(),
        Ok(Some(rules)) => rules.rules,
        Err(error) => return vec![Finding::bad("rules", with_causes(&error))],
    };
    let mut findings = vec![Finding::ok("rules", format_args!("{} rules", rules.len()))];
    for rule in &rules {
        if let Some(name) = &rule.choice.model
            && let Err(error) = ModelRegistry::usual().load(name)
        {
            findings.push(Finding::bad("rules", format_args!("{}: {}", rule.name, with_causes(&error))));
        }
        if let Some(name) = &rule.choice.template
            && let Err(error) = Template::load(name)
        {
            findings.push(Finding::bad("rules", format_args!("{}: {}", rule.name, with_causes(&error))));
        }
    }
    findings
}

fn peers(settings: &ServiceSettings) -> std::io::Result<Vec<Finding>> {
    if settings.destinations.is_empty() {
        return Ok(vec![Finding::note("destinations", "none: structure sets stay in the data folder")]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(settings.destinations.iter().map(|d| runtime.block_on(destination(&d.to, settings))).collect())
}

async fn destination(to: &Destination, settings: &ServiceSettings) -> Finding {
    match to.reach(&settings.ae_title, scu_timeouts(settings)).await {
        Ok(said) => Finding::ok("destination", said),
        Err(error) => Finding::bad("destination", with_causes(&error)),
    }
}

/// Whether those that are called with a report on storage commitment answer. A scanner need not take a C-ECHO.
fn reports(settings: &ServiceSettings) -> std::io::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let finding = |to: &ReportToSettings| {
        let way =
            Way::Store { peer: to.peer.clone(), commitment: None, tls: to.tls.as_ref().map(|t| t.files()) };
        let called = Destination { name: to.peer.to_string(), way };
        let found = runtime.block_on(destination(&called, settings));
        let verdict = if found.verdict == Verdict::Bad { Verdict::Note } else { found.verdict };
        Finding { subject: "storage commitment", verdict, ..found }
    };
    Ok(settings.commitment.report_to.iter().map(finding).collect())
}

fn onnx_runtime(choice: &RuntimeChoice) -> Finding {
    let Some(path) = library::find(choice.library.as_deref()) else {
        let text = "not on this machine; `oarlock runtime install` fetches it, and so does the first command that needs it";
        return Finding::note("ONNX Runtime", text);
    };
    match Runtime::start(&path) {
        Ok(runtime) => Finding::ok("ONNX Runtime", format_args!("{} {}", runtime.version(), path.display())),
        Err(error) => Finding::bad("ONNX Runtime", with_causes(&error)),
    }
}

/// Structure sets carry dates. A clock before this program was built is certainly wrong.
fn clock() -> Finding {
    /// 2026-01-01, seconds since 1970.
    const BUILT_AFTER_S: u64 = 1_767_225_600;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if now_s < BUILT_AFTER_S {
        return Finding::bad("clock", "it is before 2026 here: set the clock, structure sets carry its date");
    }
    let now = crate::service::mint::Mint::from_world().now();
    Finding::ok(
        "clock",
        format_args!("{} {:02}:{:02} UTC{}", now.date(), now.hour(), now.minute(), now.offset()),
    )
}

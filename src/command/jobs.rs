//! `oarlock jobs`: beside a running service, over the same database.
//!
//! Exit codes are documented in [`crate::cli`] and docs/operating.md.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

use time::OffsetDateTime;
use time::macros::format_description;

use super::{CommandResult, say, tell};
use crate::cli::{JobsAction, JobsArgs, QuarantineAction};
use crate::service::quarantine::Quarantine;
use crate::service::store::{
    Delivery, DeliveryState, JobDetail, JobFilter, JobState, JobSummary, State, Store, VersionDetail, now_ms,
};
use crate::service::{objects_of, place, recover};
use crate::settings::ServiceSettings;
use crate::vocabulary::dicom::SeriesInstanceUid;

type AnyError = Box<dyn Error + Send + Sync>;

/// Runs the command.
pub(super) fn run(args: JobsArgs) -> CommandResult {
    let settings = settings(&args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open_existing(&place(&settings)?).await?;
        let outcome = act(&store, &settings, &args).await;
        store.close().await;
        outcome
    })
}

/// The settings, with the data folder that the arguments name.
fn settings(args: &JobsArgs) -> Result<ServiceSettings, AnyError> {
    let mut settings = args.config.as_deref().map(ServiceSettings::load).transpose()?.unwrap_or_default();
    settings.data_dir = args.data_dir.clone().or(settings.data_dir);
    Ok(settings)
}

async fn act(store: &Store, settings: &ServiceSettings, args: &JobsArgs) -> CommandResult {
    match &args.action {
        JobsAction::List { state, limit } => list(store, state, *limit, args.json).await,
        JobsAction::Show { series } => show(store, series, args.json).await,
        JobsAction::Retry { series, version, .. } => match series {
            Some(series) => retry_one(store, series, *version).await,
            None => retry_failed(store).await,
        },
        JobsAction::Resend { series, version, to } => resend(store, series, *version, to.as_deref()).await,
        JobsAction::Recover => recover_all(store, settings).await,
        JobsAction::Quarantine { action } => quarantine(store, settings, action, args.json).await,
    }
}

async fn list(store: &Store, states: &[JobState], limit: u32, json: bool) -> CommandResult {
    let jobs = store.jobs(&JobFilter { states: states.to_vec(), limit }).await?;
    if json {
        say(serde_json::to_string_pretty(&jobs)?);
        return Ok(ExitCode::SUCCESS);
    }
    if states.is_empty() {
        for (series, calling, last_ms) in store.series_receiving().await? {
            say(format_args!("{}  receiving    {series} from {calling}", time_of(last_ms)));
        }
    }
    for job in &jobs {
        say(line(job));
    }
    if jobs.is_empty() {
        tell("no jobs");
    }
    Ok(ExitCode::SUCCESS)
}

fn line(job: &JobSummary) -> String {
    let mut line = format!(
        "{}  {:<11}  {} v{}  {} instances",
        time_of(job.changed_ms),
        job.state.word(),
        job.series,
        job.version,
        job.n_instances
    );
    if job.n_deliveries > 0 {
        line.push_str(&format!(", {} of {} delivered", job.n_delivered, job.n_deliveries));
    }
    if job.n_undeliverable > 0 {
        line.push_str(&format!(", {} given up or held", job.n_undeliverable));
    }
    if let Some(reason) = &job.reason {
        line.push_str(&format!(": {reason}"));
    }
    line
}

async fn show(store: &Store, series: &SeriesInstanceUid, json: bool) -> CommandResult {
    let Some(detail) = store.job(series.as_str()).await? else { return Ok(unknown(series)) };
    if json {
        say(serde_json::to_string_pretty(&detail)?);
    } else {
        say(page(&detail)?.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

fn page(detail: &JobDetail) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    writeln!(page, "series {}: {}", detail.series, detail.state.word())?;
    if !detail.calling_ae_title.is_empty() {
        writeln!(page, "  from {}", detail.calling_ae_title)?;
    }
    writeln!(page, "  first instance {}, last change {}", time_of(detail.first_ms), time_of(detail.last_ms))?;
    for version in &detail.versions {
        describe(&mut page, version)?;
    }
    writeln!(page, "history")?;
    for entry in &detail.history {
        let mut subject = entry.subject.clone();
        if let Some(version) = entry.version {
            subject = format!("{subject} v{version}");
        }
        if let Some(destination) = &entry.destination {
            subject = format!("{subject} to {destination}");
        }
        writeln!(
            page,
            "  {}  {subject}: {} -> {}: {}",
            time_of(entry.at_ms),
            entry.was,
            entry.became,
            entry.cause
        )?;
    }
    Ok(page)
}

fn describe(page: &mut String, version: &VersionDetail) -> std::fmt::Result {
    let job = &version.job;
    writeln!(page, "version {}: {}, {} instances", job.version, job.state.word(), job.n_instances)?;
    if let Some(reason) = &job.reason {
        writeln!(page, "  because: {reason}")?;
    }
    if let Some(rule) = &version.choice.rule {
        writeln!(page, "  rule {rule}")?;
    }
    if job.state == JobState::Waiting && job.not_before_ms > now_ms() {
        writeln!(page, "  not before {}", time_of(job.not_before_ms))?;
    }
    if let Some(result) = &version.result {
        writeln!(page, "  structure set {result}")?;
    }
    for organ in version.organs.iter().filter(|organ| !organ.found || !organ.check.is_empty()) {
        let why = if organ.found { organ.check.join("; ") } else { "not found".to_owned() };
        writeln!(page, "  check {}: {why}", organ.roi_name)?;
    }
    for delivery in &version.deliveries {
        let state = delivery.state.word();
        write!(page, "  to {}: {state}, {} attempts", delivery.destination, delivery.attempts)?;
        if let Some(at_ms) = delivery.delivered_ms {
            write!(page, ", {}", time_of(at_ms))?;
        }
        match &delivery.last_error {
            Some(error) => writeln!(page, ": {error}")?,
            None => writeln!(page)?,
        }
    }
    Ok(())
}

async fn retry_one(store: &Store, series: &SeriesInstanceUid, version: Option<u32>) -> CommandResult {
    let Some((version, _)) = version_of(store, series, version).await? else { return Ok(unknown(series)) };
    Ok(match store.retry(series.as_str(), version, now_ms()).await? {
        Ok(()) => {
            say(format_args!("{series} v{version} waits for its turn"));
            ExitCode::SUCCESS
        }
        Err(state) => {
            tell(format_args!(
                "{series} v{version} is {}: only what failed, was refused or passed over can be done again",
                state.word()
            ));
            ExitCode::FAILURE
        }
    })
}

async fn retry_failed(store: &Store) -> CommandResult {
    let failed = store.jobs(&JobFilter { states: vec![JobState::Failed], limit: u32::MAX }).await?;
    let mut n = 0;
    for job in &failed {
        if store.retry(&job.series, job.version, now_ms()).await?.is_ok() {
            say(format_args!("{} v{} waits for its turn", job.series, job.version));
            n += 1;
        }
    }
    if n == 0 {
        tell("no job has failed");
    }
    Ok(ExitCode::SUCCESS)
}

async fn resend(
    store: &Store,
    series: &SeriesInstanceUid,
    version: Option<u32>,
    to: Option<&str>,
) -> CommandResult {
    let Some((version, detail)) = version_of(store, series, version).await? else {
        return Ok(unknown(series));
    };
    let about_series = detail.history.iter().rev().find(|entry| entry.subject == "series");
    if let Some(removed) = about_series.filter(|entry| entry.became == "removed") {
        tell(format_args!("{series}: its files were removed ({}), nothing can be sent again", removed.cause));
        return Ok(ExitCode::FAILURE);
    }
    let deliveries: Vec<_> =
        detail.versions.iter().filter(|v| v.job.version == version).flat_map(|v| &v.deliveries).collect();
    let wanted = |d: &&Delivery| to.is_none_or(|name| name == d.destination);
    // What was held back was never made into an object that could go.
    if let Some(held) = deliveries.iter().copied().filter(wanted).find(|d| d.state == DeliveryState::Held) {
        tell(format_args!(
            "{series} v{version}: {} is held back ({}): correct the cause, then send the series again; --to names another",
            held.destination,
            held.last_error.as_deref().unwrap_or("no reason on record")
        ));
        return Ok(ExitCode::FAILURE);
    }
    let cause = "a person asked for it to be sent again";
    let n = store.resend(series.as_str(), version, to, cause, now_ms()).await?;
    if n > 0 {
        say(format_args!("{n} deliveries of {series} v{version} wait for their turn"));
        return Ok(ExitCode::SUCCESS);
    }
    let known: Vec<String> =
        deliveries.iter().map(|d| format!("{} is {}", d.destination, d.state.word())).collect();
    let known = if known.is_empty() { "it has no deliveries".to_owned() } else { known.join(", ") };
    tell(format_args!("{series} v{version}: nothing to send again: {known}"));
    Ok(ExitCode::FAILURE)
}

async fn recover_all(store: &Store, settings: &ServiceSettings) -> CommandResult {
    let Some(shared) = &settings.store else {
        tell("a node without store looks at every series by itself at each start: restart it");
        return Ok(ExitCode::FAILURE);
    };
    let found = recover(store, &objects_of(shared)?, now_ms()).await?;
    for series in &found {
        say(format_args!("{series} is looked at again"));
    }
    if found.is_empty() {
        tell("the database knows every series in the bucket");
    }
    Ok(ExitCode::SUCCESS)
}

async fn quarantine(
    store: &Store,
    settings: &ServiceSettings,
    action: &QuarantineAction,
    json: bool,
) -> CommandResult {
    let quarantine = match &settings.store {
        Some(shared) => Quarantine::of_bucket(objects_of(shared)?),
        None => Quarantine::of(&settings.data_folder()),
    };
    match action {
        QuarantineAction::List => {
            let found = quarantine.list()?;
            if json {
                say(serde_json::to_string_pretty(&found)?);
            } else {
                for one in &found {
                    say(format_args!("{}  {} bytes", one.name, one.n_bytes));
                    for line in one.reason.lines() {
                        say(format_args!("    {line}"));
                    }
                }
                if found.is_empty() {
                    tell("nothing is in quarantine");
                }
            }
        }
        QuarantineAction::Release { name } => {
            let (series, version) = quarantine.release(name, store).await?;
            say(format_args!("{name} is stored; its series {series} is contoured anew as v{version}"));
        }
        QuarantineAction::Drop { name } => {
            quarantine.drop_one(name)?;
            say(format_args!("{name} is removed"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The version that is meant, the last one without a number; `None` where there is no such series or version.
async fn version_of(
    store: &Store,
    series: &SeriesInstanceUid,
    version: Option<u32>,
) -> Result<Option<(i64, JobDetail)>, AnyError> {
    let Some(detail) = store.job(series.as_str()).await? else { return Ok(None) };
    let found = match version {
        Some(wanted) => detail.versions.iter().find(|v| v.job.version == i64::from(wanted)),
        None => detail.versions.last(),
    };
    Ok(found.map(|found| found.job.version).map(|version| (version, detail)))
}

fn unknown(series: &SeriesInstanceUid) -> ExitCode {
    tell(format_args!("there is no such version of a series {series}: `oarlock jobs list` prints them"));
    ExitCode::FAILURE
}

/// In UTC, to the second.
fn time_of(ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let time = OffsetDateTime::from_unix_timestamp(ms.div_euclid(1_000)).ok();
    time.and_then(|time| time.format(&format).ok()).unwrap_or_else(|| ms.to_string())
}

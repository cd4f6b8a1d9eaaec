//! `oarlock check --explain`: which rule takes a series, and why each other does not.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CommandResult, say, tell};
use crate::cli::CheckArgs;
use crate::pipeline::ingest::{Spool, StoredInstance};
use crate::pipeline::series::{Choice, Explained, Priority, Subject};
use crate::service::{bucket_reader, objects_of};
use crate::settings::{ServiceSettings, load_rules};
use crate::vocabulary::dicom::SeriesInstanceUid;

/// As the spool's own limit.
const MAX_INFLATED_BYTES: u64 = 1 << 32;

/// Runs the command.
pub(super) fn run(args: &CheckArgs, series: &str) -> CommandResult {
    let settings = args.config.as_deref().map(ServiceSettings::load).transpose()?.unwrap_or_default();
    let rules = load_rules(&settings)?;
    let fetched = tempfile::tempdir()?;
    let (paths, calling) = instances(&settings, series, fetched.path())?;
    let calling = args.calling.as_ref().map(ToString::to_string).or(calling);
    let Some(subject) = Subject::of_series(&paths, calling.as_deref())? else {
        tell(format_args!("{series}: neither a folder with instances nor a series that was received"));
        return Ok(ExitCode::FAILURE);
    };
    let explained = match rules {
        Some(rules) => rules.explain(&subject),
        None => Explained { choice: Choice::default(), answers: Vec::new() },
    };
    if args.json {
        say(serde_json::to_string_pretty(&json(&explained))?);
    } else {
        tell_people(&explained, &settings);
    }
    Ok(ExitCode::SUCCESS)
}

fn instances(
    settings: &ServiceSettings,
    series: &str,
    fetched: &Path,
) -> Result<(Vec<PathBuf>, Option<String>), Box<dyn Error + Send + Sync>> {
    let folder = Path::new(series);
    if folder.is_dir() {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        return Ok((paths, None));
    }
    let Ok(uid) = SeriesInstanceUid::parse(series) else { return Ok((Vec::new(), None)) };
    if let Some(shared) = &settings.store {
        let bucket = bucket_reader(objects_of(shared)?);
        let uids = bucket.shared_uids(&uid)?;
        let stored = bucket.instances(&uid, &uids, fetched)?;
        return Ok(paths_and_calling(stored));
    }
    let stored = Spool::stored_series(&settings.data_folder(), &uid, MAX_INFLATED_BYTES)?;
    Ok(paths_and_calling(stored))
}

fn paths_and_calling(stored: Vec<StoredInstance>) -> (Vec<PathBuf>, Option<String>) {
    let calling = stored.iter().find_map(|i| i.clue.calling_ae_title.as_ref()).map(ToString::to_string);
    (stored.into_iter().map(|i| i.path).collect(), calling)
}

fn tell_people(explained: &Explained, settings: &ServiceSettings) {
    if settings.rules.is_none() {
        say("no rules: every CT series is taken");
    }
    for answer in &explained.answers {
        let verdict = if answer.takes { "takes it" } else { "does not take it" };
        say(format_args!("rule {}: {verdict}: {}", answer.rule, answer.why));
    }
    let choice = &explained.choice;
    if let Some(reason) = &choice.passed_over {
        say(format_args!("passed over: {reason}"));
        return;
    }
    say(format_args!("model {}", choice.model.as_deref().unwrap_or(&settings.network.model)));
    say(format_args!(
        "structure template {}",
        choice.template.as_deref().unwrap_or(&settings.structure_set.template)
    ));
    let all = || settings.destinations.iter().map(|d| d.to.name.clone()).collect();
    let destinations: Vec<String> = choice.destinations.clone().unwrap_or_else(all);
    say(match (choice.dry_run, destinations.is_empty()) {
        (true, _) => "delivered nowhere (dry run)".to_owned(),
        (false, true) => "delivered nowhere (no destinations)".to_owned(),
        (false, false) => format!("delivered to {}", destinations.join(", ")),
    });
    let priority = match choice.priority {
        Priority::Urgent => "urgent",
        Priority::Normal => "normal",
        Priority::OffPeak => "off-peak",
    };
    let window = choice.window.map(|window| format!(", {window}")).unwrap_or_default();
    say(format_args!("priority {priority}{window}"));
}

fn json(explained: &Explained) -> serde_json::Value {
    let answers = explained.answers.iter();
    let answers: Vec<_> =
        answers.map(|a| serde_json::json!({ "rule": a.rule, "takes": a.takes, "why": a.why })).collect();
    serde_json::json!({ "choice": explained.choice, "rules": answers })
}

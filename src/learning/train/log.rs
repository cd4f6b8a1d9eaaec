//! What happened in a run: `log.jsonl` in the output folder, one JSON object per line, and the same in memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::losses::Losses;
use super::validation::Validation;
use super::whole_file;

/// Name of the log in the output folder.
pub(super) const LOG: &str = "log.jsonl";

/// A log of four million steps; what lies beyond is left alone.
const MOST_BYTES: u64 = 1 << 30;

/// Why the log cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {operation} {}: free some space or correct the permissions, then go on with --resume; the last checkpoint is good",
    path.display()
)]
pub struct LogError {
    operation: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StepLine {
    /// Steps done.
    pub(super) step: u64,
    /// Its patient.
    pub(super) case: String,
    /// Parts of its loss.
    #[serde(flatten)]
    pub(super) losses: Losses,
    /// Their sum.
    pub(super) total: f32,
    pub(super) learning_rate: f64,
    /// Length of all gradients together, before it was cut.
    pub(super) gradient_length: f32,
    /// Seconds that the step waited for its sample.
    pub(super) wait_s: f64,
    /// Seconds that it took, waiting included.
    pub(super) step_s: f64,
}

/// One validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ValidationLine {
    /// Steps done.
    pub(super) step: u64,
    /// Mean over organs of the mean DSC over cases.
    pub(super) validation_mean_dsc: f32,
    /// By the paper's names.
    pub(super) organs: BTreeMap<String, OrganLine>,
    /// Seconds that it took.
    pub(super) took_s: f64,
}

/// One organ in a validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct OrganLine {
    /// Mean over cases; 0 counts where the organ was not found.
    pub(super) dsc: f32,
    /// In how many cases it was found.
    pub(super) found: usize,
    /// How many cases annotate it.
    pub(super) cases: usize,
}

impl ValidationLine {
    pub(super) fn of(step: u64, validation: &Validation, took_s: f64) -> Self {
        let organ = |(organ, dsc)| {
            let (found, cases) = validation.found(organ);
            (organ.paper_name().to_owned(), OrganLine { dsc, found, cases })
        };
        let organs = validation.means().map(organ).collect();
        Self { step, validation_mean_dsc: validation.mean(), organs, took_s }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Step(StepLine),
    Validation(ValidationLine),
}

/// The log, open, and all that stands in it.
pub(super) struct RunLog {
    path: PathBuf,
    file: File,
    /// In the order of their steps.
    pub(super) steps: Vec<StepLine>,
    /// In the order of their steps.
    pub(super) validations: Vec<ValidationLine>,
}

impl RunLog {
    /// Opens the log of a folder to go on after `step`: later lines, of steps that a killed run took but did not keep,
    /// are taken out, and so is what is no line.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn go_on(folder: &Path, step: u64) -> Result<Self, LogError> {
        let path = folder.join(LOG);
        let failed = |operation| {
            let path = path.clone();
            move |source| LogError { operation, path, source }
        };
        let (mut steps, mut validations, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        if path.is_file() {
            let file = BufReader::new(File::open(&path).map_err(failed("open"))?.take(MOST_BYTES));
            for line in file.split(b'\n') {
                let line = line.map_err(failed("read"))?;
                match serde_json::from_slice(&line) {
                    Ok(Line::Step(found)) if found.step <= step => steps.push(found),
                    Ok(Line::Validation(found)) if found.step <= step => validations.push(found),
                    _ => continue,
                }
                kept.extend(line);
                kept.push(b'\n');
            }
        }
        std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        whole_file::write(&path, &kept).map_err(failed("write"))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(failed("open"))?;
        Ok(Self { path, file, steps, validations })
    }

    /// Whether the validation of a step is in the log, so that it need not be done again.
    pub(super) fn has_validation(&self, step: u64) -> bool {
        self.validations.iter().any(|line| line.step == step)
    }

    /// # Errors
    /// [`LogError`].
    pub(super) fn add_step(&mut self, line: StepLine) -> Result<(), LogError> {
        self.append(&line)?;
        self.steps.push(line);
        Ok(())
    }

    /// # Errors
    /// [`LogError`].
    pub(super) fn add_validation(&mut self, line: ValidationLine) -> Result<(), LogError> {
        self.append(&line)?;
        self.validations.push(line);
        Ok(())
    }

    fn append(&mut self, line: &impl Serialize) -> Result<(), LogError> {
        let mut text = serde_json::to_vec(line).expect("names and numbers make valid JSON");
        text.push(b'\n');
        let path = &self.path;
        self.file.write_all(&text).map_err(|source| LogError {
            operation: "write to",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepLine {
        let losses = Losses { proposal_class: 0.25, proposal_box: 2.0, mask: Some(0.5), ..Losses::default() };
        StepLine {
            step,
            case: "pt_3".into(),
            losses,
            total: losses.total(),
            learning_rate: 1e-3,
            gradient_length: 7.5,
            wait_s: 0.01,
            step_s: 2.5,
        }
    }

    fn validation(step: u64) -> ValidationLine {
        let organs = [("Larynx".to_owned(), OrganLine { dsc: 0.5, found: 2, cases: 3 })];
        ValidationLine { step, validation_mean_dsc: 0.5, organs: organs.into_iter().collect(), took_s: 9.0 }
    }

    /// Killed in the middle of a line after step 4 while the last checkpoint is of step 3.
    #[test]
    fn a_log_goes_on_where_the_checkpoint_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RunLog::go_on(dir.path(), 0).unwrap();
        for step in 1..=4 {
            log.add_step(line(step)).unwrap();
        }
        log.add_validation(validation(4)).unwrap();
        log.file.write_all(b"{\"step\":5,\"ca").unwrap();
        let mut log = RunLog::go_on(dir.path(), 3).unwrap();
        assert_eq!(log.steps, [line(1), line(2), line(3)]);
        assert!(!log.has_validation(4));
        log.add_step(line(4)).unwrap();
        log.add_validation(validation(4)).unwrap();
        let log = RunLog::go_on(dir.path(), 4).unwrap();
        assert_eq!((log.steps.len(), log.validations.as_slice()), (4, &[validation(4)][..]));
        assert!(log.has_validation(4));
    }
}

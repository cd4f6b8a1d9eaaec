//! The training run: targets, steps, epochs, checkpoints.
//!
//! Comes in: a recipe and cases. Goes out: checkpoints, and a model in a folder of models. One step is several graphs of
//! standard operators with the choice of boxes between them; see `engine::graph::training`.

mod begin;
mod boxes;
mod card;
mod checkpoint;
mod gradients;
mod held_out;
mod log;
mod losses;
mod patients;
mod proposal_targets;
mod prospect;
mod rarity;
mod report;
mod run;
mod scatter;
mod step;
mod targets;
mod validation;
mod whole_file;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use gradients::Tensors;
pub use log::LogError;
pub use losses::Losses;
pub use prospect::{Prospect, prospect};
pub use report::ReportError;
pub use run::{Event, Outcome, Start, train};
pub use validation::Validation;

use crate::engine::graph::OfGraphsError;
use crate::engine::runtime::session::SessionError;
use crate::learning::dataset::{DatasetError, StoreError};
use crate::learning::model::ModelError;
use crate::pipeline::network::NetworkError;

/// Why a run ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe names no preset there is.
    #[error("there is no preset {name}: the recipe's `preset` is `reference`, `starter` or `close-up`")]
    Preset {
        /// What the recipe says.
        name: String,
    },
    /// `--resume` without anything to go on from.
    #[error("there is no whole checkpoint in {folder}: start without --resume")]
    NothingToResume {
        /// Where it was looked for.
        folder: String,
    },
    /// A fresh start where another run has its checkpoints.
    #[error("{folder} holds the checkpoints of a run: go on with it by --resume, or name another `output`")]
    OutputInUse {
        /// Where they lie.
        folder: String,
    },
    /// A checkpoint of another run.
    #[error(
        "the checkpoint in {folder} is of preset {preset} and seed {seed}, the recipe is not: name another `output`"
    )]
    AnotherRun {
        /// Where it lies.
        folder: String,
        /// Its preset.
        preset: String,
        /// Its seed.
        seed: u64,
    },
    /// `start_from` names weights of another architecture.
    #[error("start_from {} holds weights of the preset {found}, the recipe's preset is {wanted}: name a checkpoint of that preset", file.display())]
    StartsFromAnother {
        /// Which file.
        file: std::path::PathBuf,
        /// Its preset.
        found: String,
        /// The recipe's.
        wanted: String,
    },
    /// `start_from` names a model that cannot be found or read.
    #[error("start_from {} is neither a checkpoint nor a model that can be read", name.display())]
    StartModel {
        /// What it names.
        name: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<ModelError>,
    },
    /// `start_from` names a model whose graphs are not those of its preset.
    #[error("start_from {} cannot be trained further", name.display())]
    StartGraphs {
        /// What it names.
        name: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<OfGraphsError>,
    },
    /// A model, whose norms are folded, with norms that follow each case.
    #[error(
        "start_from {} is a stored model, in which the norms are part of the convolutions: set `norms: frozen`",
        name.display()
    )]
    StartFolded {
        /// What it names.
        name: std::path::PathBuf,
    },
    /// Patients that cannot be used, found before the first step.
    #[error(
        "{} patients cannot be used, nothing was trained; repair them or take them out of the source:\n{}",
        broken.len(),
        broken.join("\n")
    )]
    BrokenPatients {
        /// What is wrong with each.
        broken: Vec<String>,
    },
    /// A data set cannot be used.
    #[error("a data set of the recipe cannot be used")]
    Store(#[source] StoreError),
    /// A data set without a case to train on.
    #[error("no case of {} is in the part train: `oarlock dataset split` draws the parts", folder.display())]
    NobodyTrains {
        /// Which data set.
        folder: std::path::PathBuf,
    },
    /// A patient cannot be used.
    #[error("a patient cannot be read")]
    Dataset(#[source] DatasetError),
    /// A checkpoint cannot be written or read.
    #[error("the run's state cannot be kept")]
    Checkpoint(#[source] CheckpointError),
    /// The log cannot be written or read.
    #[error("the run's log cannot be kept")]
    Log(#[source] LogError),
    /// The report cannot be written.
    #[error("the run's report cannot be written")]
    Report(#[source] ReportError),
    /// A graph cannot be loaded or run.
    #[error("ONNX Runtime refused a graph of the training step")]
    Session(#[source] SessionError),
    /// The weights cannot be tried on a held-out case.
    #[error("the weights in training do not run as a network")]
    Validation(#[source] NetworkError),
    /// The finished model cannot be stored.
    #[error("the model cannot be stored")]
    Model(#[source] ModelError),
    /// A loss or gradient is no number.
    #[error(
        "step {step} on {case} gave losses {losses} with a gradient of length {length}: not a number, so nothing was \
         changed; the last checkpoint is good: lower optimizer.learning_rate and go on with \
         --resume; where the same step fails again, delete the newest checkpoint first"
    )]
    NotFinite {
        /// Which step.
        step: u64,
        /// Which patient.
        case: String,
        /// The parts of the loss.
        losses: String,
        /// Length of all gradients together.
        length: f32,
    },
}

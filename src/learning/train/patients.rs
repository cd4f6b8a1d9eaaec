//! Which patient a step looks at, read ahead of the step in threads of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ndarray::parallel::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::TrainError;
use super::rarity::Rarity;
use crate::engine::graph::Preset;
use crate::learning::dataset::{
    AugmentSettings, Case, Dataset, DatasetError, LabelAtlas, OpenKbpPatient, OrganSet, Part, Sample,
    SampleGrid, StoredCase, draw_sample, list_open_kbp,
};
use crate::settings::{Synthetic, TrainRecipe};
use crate::vocabulary::causes::with_causes;

/// Most threads that read ahead; a sample is drawn by several threads anyway.
const MOST_READERS: usize = 4;

/// Samples that each of them lays by, besides the one in its hands.
const LAID_BY: usize = 2;

/// Threads that read ahead on this machine.
pub(super) fn n_readers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / 2).clamp(1, MOST_READERS)
}

/// Most samples that there are at a time, the one of the step included.
pub(super) fn most_samples() -> usize {
    n_readers() * (LAID_BY + 1) + 1
}

/// A patient that somebody scanned.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RealPatient {
    /// Of the OpenKBP layout.
    OpenKbp(OpenKbpPatient),
    /// Of a data set of ours.
    Stored(StoredCase),
}

impl RealPatient {
    /// Reads CT and the organs that are believed.
    ///
    /// # Errors
    /// [`DatasetError`] when the patient's files cannot be used.
    pub(super) fn read(&self) -> Result<Case, DatasetError> {
        match self {
            Self::OpenKbp(patient) => patient.read(),
            Self::Stored(case) => case.read(),
        }
    }
}

/// Real patients of one source, and its share among the steps of real patients.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub(super) share: f64,
    pub(super) patients: Vec<RealPatient>,
}

/// The real patients of a recipe.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Sources {
    /// Those that train.
    pub(super) training: Vec<Source>,
    /// Those that choose the checkpoint.
    pub(super) choosing: Vec<RealPatient>,
    /// Those that measure the chosen weights once, for the card.
    pub(super) measuring: Vec<RealPatient>,
    /// Licences of the data sets, for the card.
    pub(super) notices: Vec<String>,
}

impl Sources {
    /// Lists the patients of a recipe.
    ///
    /// # Errors
    /// [`TrainError`] where a source cannot be read, or a data set has nobody to train on or but one patient.
    pub(super) fn of(recipe: &TrainRecipe) -> Result<Self, TrainError> {
        let sources = &recipe.sources;
        let mut found = Self::default();
        let open_kbp = |part| -> Result<Vec<RealPatient>, TrainError> {
            let patients = list_open_kbp(part).map_err(TrainError::Dataset)?;
            Ok(patients.into_iter().map(RealPatient::OpenKbp).collect())
        };
        if let Some(part) = sources.open_kbp_train.as_ref().filter(|_| sources.open_kbp_share > 0.0) {
            found.training.push(Source { share: sources.open_kbp_share, patients: open_kbp(part)? });
        }
        if let Some(part) = &sources.open_kbp_validation {
            found.choosing = open_kbp(part)?;
            found.measuring = found.choosing.split_off(sources.validation_patients.min(found.choosing.len()));
        }
        for source in &sources.datasets {
            let dataset = Dataset::open(&source.folder).map_err(TrainError::Store)?;
            dataset.two_patients().map_err(TrainError::Store)?;
            let cases = |part| dataset.cases(Some(part)).into_iter().map(RealPatient::Stored);
            let patients: Vec<RealPatient> = cases(Part::Train).collect();
            if patients.is_empty() {
                return Err(TrainError::NobodyTrains { folder: source.folder.clone() });
            }
            found.training.push(Source { share: source.share, patients });
            found.choosing.extend(cases(Part::Validation));
            found.measuring.extend(cases(Part::Test));
            found.notices.extend(dataset.index().notices.iter().cloned());
        }
        Ok(found)
    }

    /// Share of all of them among the steps.
    pub(super) fn share(&self) -> f64 {
        self.training.iter().map(|source| source.share).sum()
    }
}

/// Everything that training looks at.
pub(super) struct Patients {
    /// Real patients, by source; no source is empty.
    pub(super) real: Vec<Source>,
    /// Anatomies to draw synthetic patients from.
    pub(super) atlases: Vec<LabelAtlas>,
    /// Probability that a step looks at a synthetic patient.
    pub(super) synthetic: f64,
    /// Grid, window and organs.
    pub(super) preset: Preset,
    /// Voxels of a crop.
    pub(super) crop: [usize; 3],
    /// How far a look may be from the patient as scanned.
    pub(super) augment: AugmentSettings,
    /// What synthetic patients are varied by.
    pub(super) varied: Synthetic,
    /// Seed of the run.
    pub(super) seed: u64,
    /// See the recipe.
    pub(super) rare_organs: f64,
}

impl Patients {
    /// The sample of a step: a function of seed and step alone, so a resumed run sees what an unbroken one sees.
    ///
    /// # Errors
    /// [`DatasetError`] when the patient's files cannot be used.
    fn sample(&self, rarity: &Rarity, step: u64) -> Result<Sample, DatasetError> {
        let grid = SampleGrid::of(&self.preset, self.crop);
        let mut rng = Pcg64::seed_from_u64(self.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        if self.real.is_empty() || (!self.atlases.is_empty() && rng.random_range(0.0..1.0) < self.synthetic) {
            let atlas = &self.atlases[rng.random_range(0..self.atlases.len())];
            return Ok(atlas.draw(grid, &self.varied, &mut rng));
        }
        let patients: Vec<&RealPatient> = self.real.iter().flat_map(|source| &source.patients).collect();
        let patient = patients[rarity.draw_patient(patients.len(), &mut rng)];
        let case = patient.read()?;
        Ok(draw_sample(&case, grid, &self.augment, &mut rng))
    }

    /// Reads every real patient once, several at a time, those held out too, and counts the organs of the others.
    ///
    /// # Errors
    /// [`TrainError::BrokenPatients`] with all that cannot be used.
    pub(super) fn check(&self, sources: &Sources) -> Result<Rarity, TrainError> {
        let trains = self.real.iter().flat_map(|source| &source.patients);
        let held_out = sources.choosing.iter().chain(&sources.measuring);
        let all: Vec<&RealPatient> = trains.chain(held_out).collect();
        let read = |patient: &RealPatient| Ok(patient.read().map_err(|e| with_causes(&e))?.annotated);
        let all: Vec<Result<OrganSet, String>> = all.into_par_iter().map(read).collect();
        let broken: Vec<String> = all.iter().filter_map(|found| found.clone().err()).collect();
        if !broken.is_empty() {
            return Err(TrainError::BrokenPatients { broken });
        }
        let of_patient =
            |source: &Source| vec![source.share / source.patients.len() as f64; source.patients.len()];
        let shares: Vec<f64> = self.real.iter().flat_map(of_patient).collect();
        let annotated: Vec<OrganSet> = all.into_iter().take(shares.len()).flatten().collect();
        Ok(Rarity::of(&annotated, &shares, self.rare_organs))
    }

    /// Starts reading the samples of `steps`, several at a time.
    pub(super) fn read_ahead(self, rarity: Rarity, steps: std::ops::Range<u64>) -> ReadAhead {
        let n_readers = n_readers();
        let shared = Arc::new((self, rarity));
        let readers = (0..n_readers).map(|reader| {
            let (sender, receiver) = sync_channel(LAID_BY);
            let shared = Arc::clone(&shared);
            let own = steps.clone().skip(reader).step_by(n_readers);
            Reader {
                receiver: Some(receiver),
                thread: Some(std::thread::spawn(move || send_all(&shared, own, &sender))),
            }
        });
        ReadAhead { readers: readers.collect(), next: 0, waited: Duration::ZERO }
    }
}

fn send_all(
    shared: &(Patients, Rarity),
    steps: impl Iterator<Item = u64>,
    sender: &SyncSender<Result<Sample, DatasetError>>,
) {
    let (patients, rarity) = shared;
    for step in steps {
        // The receiver goes away when the run ends early.
        if sender.send(patients.sample(rarity, step)).is_err() {
            return;
        }
    }
}

/// Samples in the order of their steps.
pub(super) struct ReadAhead {
    readers: Vec<Reader>,
    next: usize,
    /// Time that [`Self::next`] has waited so far.
    pub(super) waited: Duration,
}

struct Reader {
    receiver: Option<Receiver<Result<Sample, DatasetError>>>,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    /// The next sample, `None` after the last.
    pub(super) fn next(&mut self) -> Option<Result<Sample, DatasetError>> {
        let reader = &self.readers[self.next];
        self.next = (self.next + 1) % self.readers.len();
        let asked = Instant::now();
        let sample = reader.receiver.as_ref()?.recv().ok();
        self.waited += asked.elapsed();
        sample
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the reader has already been seen as a missing sample.
            drop(thread.join());
        }
    }
}

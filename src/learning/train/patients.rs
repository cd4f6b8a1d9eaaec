//! Which patient a step looks at, read ahead of the step in a thread of its own.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ndarray::parallel::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::TrainError;
use crate::learning::dataset::{
    AugmentSettings, DatasetError, LabelAtlas, OpenKbpPatient, Sample, draw_sample,
};
use crate::settings::Synthetic;

/// How many samples wait for the step at most.
const AHEAD: usize = 3;

/// Everything that training looks at.
pub(super) struct Patients {
    /// Real patients.
    pub(super) real: Vec<OpenKbpPatient>,
    /// Anatomies to draw synthetic patients from.
    pub(super) atlases: Vec<LabelAtlas>,
    /// Probability that a step looks at a synthetic patient.
    pub(super) synthetic: f64,
    /// Spacing of the network grid `(z, y, x)`, mm.
    pub(super) spacing_mm: [f64; 3],
    /// Voxels of a crop.
    pub(super) crop: [usize; 3],
    /// How far a look may be from the patient as scanned.
    pub(super) augment: AugmentSettings,
    /// What synthetic patients are varied by.
    pub(super) varied: Synthetic,
    /// Seed of the run.
    pub(super) seed: u64,
}

impl Patients {
    /// The sample of a step: a function of seed and step alone, so a resumed run sees what an unbroken one sees.
    ///
    /// # Errors
    /// [`DatasetError`] when the patient's files cannot be used.
    pub(super) fn sample(&self, step: u64) -> Result<Sample, DatasetError> {
        let mut rng = Pcg64::seed_from_u64(self.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        if self.real.is_empty() || (!self.atlases.is_empty() && rng.random_range(0.0..1.0) < self.synthetic) {
            let atlas = &self.atlases[rng.random_range(0..self.atlases.len())];
            return Ok(atlas.draw(self.spacing_mm, self.crop, &self.varied, &mut rng));
        }
        let patient = &self.real[rng.random_range(0..self.real.len())];
        let case = patient.read()?;
        Ok(draw_sample(&case, self.spacing_mm, self.crop, &self.augment, &mut rng))
    }

    /// Reads every real patient once, several at a time.
    ///
    /// # Errors
    /// [`TrainError::BrokenPatients`] with all that cannot be used.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let broken: Vec<String> = self
            .real
            .par_iter()
            .filter_map(|patient| patient.read().err())
            .map(|error| error_chain(&error))
            .collect();
        if broken.is_empty() { Ok(()) } else { Err(TrainError::BrokenPatients { broken }) }
    }

    /// Starts reading the samples of `steps` in order.
    pub(super) fn read_ahead(self, steps: std::ops::Range<u64>) -> ReadAhead {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || send_all(&self, steps, &sender));
        ReadAhead { receiver: Some(receiver), thread: Some(thread) }
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn send_all(
    patients: &Patients,
    steps: std::ops::Range<u64>,
    sender: &SyncSender<Result<Sample, DatasetError>>,
) {
    for step in steps {
        // The receiver goes away when the run ends early.
        if sender.send(patients.sample(step)).is_err() {
            return;
        }
    }
}

/// Samples in the order of their steps.
pub(super) struct ReadAhead {
    receiver: Option<Receiver<Result<Sample, DatasetError>>>,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    /// The next sample, `None` after the last.
    pub(super) fn next(&self) -> Option<Result<Sample, DatasetError>> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the reader has already been seen as a missing sample.
            drop(thread.join());
        }
    }
}

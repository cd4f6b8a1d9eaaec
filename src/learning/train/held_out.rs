//! Patients that never train: some choose the checkpoint, the others measure the chosen weights once.

use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{Array3, Zip};

use super::TrainError;
use super::checkpoint::{BEST, Checkpoint};
use super::patients::{RealPatient, Sources};
use super::report::CasePicture;
use super::run::Event;
use super::validation::{Segmenter, Validation};
use crate::engine::graph::{Preset, Weights};
use crate::engine::runtime::session::{Runtime, SessionOptions};
use crate::learning::dataset::{OrganSet, Sample, SampleGrid, whole_sample};
use crate::picture::{Outline, sheet};
use crate::pipeline::network::{OrganMask, single};
use crate::pipeline::volume::HuVolume;
use crate::settings::{StructureTemplate, TrainRecipe};
use crate::vocabulary::space::{Grid, RegionMask};

/// Cases of the report with a picture: the first ones, the same at every validation.
const MOST_PICTURES: usize = 3;

/// Patients that never train, and the best weights so far.
pub(super) struct HeldOut {
    /// The patients that choose the checkpoint.
    choosing: Vec<RealPatient>,
    /// The others: they measure the chosen weights once, for the card.
    measuring: Vec<RealPatient>,
    /// Licences of the data sets, for the card.
    pub(super) notices: Vec<String>,
    preset: Preset,
    runtime: Runtime,
    options: SessionOptions,
    best: Option<f32>,
    /// Of the last validation.
    pub(super) pictures: Vec<CasePicture>,
}

impl HeldOut {
    pub(super) fn new(
        recipe: &TrainRecipe,
        sources: Sources,
        preset: &Preset,
        runtime: Runtime,
        options: SessionOptions,
    ) -> Self {
        let Sources { choosing, measuring, notices, .. } = sources;
        // A best checkpoint that cannot be read is not better than anything.
        let best = Checkpoint::read(&recipe.output.join(BEST)).ok().and_then(|best| best.validation);
        let (preset, pictures) = (preset.clone(), Vec::new());
        Self { choosing, measuring, notices, preset, runtime, options, best, pictures }
    }

    /// How many patients choose, and how many measure the chosen weights.
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.choosing.len(), self.measuring.len()]
    }

    /// Measures weights on the patients that choose, draws the first of them, and keeps the weights where they are the
    /// best so far. `None`: nobody to measure on, or asked to stop before the last patient, and nothing kept.
    pub(super) fn choose(
        &mut self,
        recipe: &TrainRecipe,
        state: &Checkpoint,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Validation>, TrainError> {
        if self.choosing.is_empty() {
            return Ok(None);
        }
        let mut pictures = Vec::new();
        let template = StructureTemplate::shipped().ok();
        let above = single(self.preset.mask_probability);
        let mut draw = |sample: &Sample, found: &[OrganMask], grid: Grid| {
            if pictures.len() < MOST_PICTURES {
                pictures.extend(template.as_ref().and_then(|t| picture(sample, found, grid, above, t)));
            }
        };
        let measured = self.measure(&self.choosing, state.shipped(), stop, report, &mut draw)?;
        let Some(validation) = measured else { return Ok(None) };
        self.pictures = pictures;
        if self.best.is_none_or(|best| validation.mean() > best) {
            self.best = Some(validation.mean());
            let best = Checkpoint { validation: self.best, ..state.clone() };
            best.write(&recipe.output, BEST).map_err(TrainError::Checkpoint)?;
        }
        Ok(Some(validation))
    }

    /// Measures weights on the patients that chose nothing; `None`: asked to stop before the last of them.
    pub(super) fn measure_chosen(
        &self,
        weights: &Weights,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Validation>, TrainError> {
        self.measure(&self.measuring, weights, stop, report, &mut |_, _, _| {})
    }

    fn measure(
        &self,
        patients: &[RealPatient],
        weights: &Weights,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&Event<'_>),
        see: &mut dyn FnMut(&Sample, &[OrganMask], Grid),
    ) -> Result<Option<Validation>, TrainError> {
        let mut validation = Validation::default();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if patients.is_empty() {
            return Ok(Some(validation));
        }
        let mut segmenter =
            Segmenter::new(self.runtime, weights, &self.options).map_err(TrainError::Validation)?;
        for (done, patient) in patients.iter().enumerate() {
            report(&Event::Validating { done, of: patients.len() });
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let case = patient.read().map_err(TrainError::Dataset)?;
            let sample = whole_sample(&case, SampleGrid::of(&self.preset, self.preset.largest_input));
            let (found, grid) =
                segmenter.measure(&sample, &mut validation).map_err(TrainError::Validation)?;
            see(&sample, &found, grid);
        }
        Ok(Some(validation))
    }
}

/// The annotated organs of a case as found and as drawn; `None` where there is nothing to show.
fn picture(
    sample: &Sample,
    found: &[OrganMask],
    grid: Grid,
    above: f32,
    template: &StructureTemplate,
) -> Option<CasePicture> {
    let outlines: Vec<Outline> = sample
        .annotated
        .iter()
        .map(|organ| {
            let bit = OrganSet::of(organ).bits();
            let truth = Zip::from(&sample.organs).map_collect(|voxel| voxel & bit != 0);
            let mask = found.iter().find(|mask| mask.organ == organ);
            let name = organ.paper_name();
            Outline {
                legend: if mask.is_some() { name.to_owned() } else { format!("{name}: not found") },
                color: template.entry(organ).color,
                mask: mask.map_or_else(nowhere, |mask| RegionMask {
                    region: mask.region,
                    voxels: mask.probability.mapv(|probability| probability > above),
                }),
                truth: Some(RegionMask::from_whole(truth.view())),
            }
        })
        .collect();
    let volume = HuVolume { hu: sample.image.mapv(hounsfield), grid };
    let png = sheet(&volume, &outlines, &sample.name, &[]).ok()?;
    Some(CasePicture { case: sample.name.clone(), png })
}

fn nowhere() -> RegionMask {
    RegionMask::from_whole(Array3::default([0; 3]).view())
}

/// The inverse of the network's scaling; source: Tang et al. 2019, Methods.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 12 bits")]
fn hounsfield(value: f32) -> i16 {
    ((value + 1.0) / 2.0 * 4100.0 - 1024.0).round().clamp(-1024.0, 3071.0) as i16
}

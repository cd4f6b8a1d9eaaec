//! The mask head's part of a step: which organs it looks at, in which boxes, and what comes of it.

use rand::Rng;

use super::{AfterRun, Features, Loaded, Trainer, machine_of, named};
use crate::engine::graph::training;
use crate::engine::runtime::session::{Input, SessionError};
use crate::learning::dataset::{OrganSet, Sample};
use crate::learning::train::boxes::TrueBox;
use crate::learning::train::gradients::{Tensors, accumulate};
use crate::learning::train::scatter::add_crop;
use crate::learning::train::targets::jittered;
use crate::pipeline::network::{crop, mask_box};
use crate::vocabulary::space::VoxelBox;

/// Downscaling of the three maps.
const SCALES: [usize; 3] = [2, 4, 8];

/// Loaded graphs by the sides of their boxes, the one unused for longest first.
pub(super) struct MaskSessions {
    loaded: Vec<([usize; 3], Loaded)>,
    most_bytes: u64,
}

impl MaskSessions {
    pub(super) fn new(most_bytes: u64) -> Self {
        Self { loaded: Vec::new(), most_bytes }
    }

    fn take(&mut self, sides: [usize; 3]) -> Option<Loaded> {
        let place = self.loaded.iter().position(|(known, _)| *known == sides)?;
        Some(self.loaded.remove(place).1)
    }

    fn keep(&mut self, sides: [usize; 3], loaded: Loaded) {
        self.loaded.push((sides, loaded));
        while self.loaded.iter().map(|(_, loaded)| loaded.kept_bytes).sum::<u64>() > self.most_bytes {
            self.loaded.remove(0);
        }
    }
}

impl Trainer {
    /// Organs that the mask head looks at in this step, with the boxes it sees.
    pub(super) fn mask_boxes(
        &self,
        boxes: &[TrueBox],
        count: usize,
        largest: usize,
        rng: &mut impl Rng,
    ) -> Vec<(TrueBox, VoxelBox)> {
        let mut all: Vec<(TrueBox, VoxelBox)> = boxes
            .iter()
            .map(|b| (*b, mask_box(jittered(b.target, rng), self.crop)))
            .filter(|(_, region)| region.shape().iter().product::<usize>() <= largest)
            .collect();
        self.rarity.draw_down_to(&mut all, count, |(true_box, _)| true_box.organ, rng);
        all
    }

    /// The mask head on some organs: the sum of its losses.
    pub(super) fn masks(
        &mut self,
        features: &mut Features,
        sample: &Sample,
        boxes: &[(TrueBox, VoxelBox)],
        gradients: &mut Tensors,
    ) -> Result<f32, SessionError> {
        let mut sum = 0.0;
        for (true_box, region) in boxes {
            sum += self.mask(features, sample, true_box, *region, gradients)?;
        }
        Ok(sum)
    }

    /// The mask head on one organ: its loss, zero where the box holds nothing of it.
    pub(super) fn mask(
        &mut self,
        features: &mut Features,
        sample: &Sample,
        true_box: &TrueBox,
        region: VoxelBox,
        gradients: &mut Tensors,
    ) -> Result<f32, SessionError> {
        let bit = OrganSet::of(true_box.organ).bits();
        let VoxelBox { start, end } = region;
        let part = sample.organs.slice(ndarray::s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]);
        let truth: Vec<f32> = part.iter().map(|voxel| if voxel & bit != 0 { 1.0 } else { 0.0 }).collect();
        if truth.iter().sum::<f32>() < 0.5 {
            return Ok(0.0);
        }
        let valid = vec![1.0; truth.len()];
        let image = crop(features.image.view(), region, 1);
        let [f2, f4, f8] = [0, 1, 2].map(|i: usize| crop(features.maps[i].view(), region, SCALES[i]));
        let class = i64::try_from(true_box.organ.index()).expect("28 organs");
        let [d, h, w] = region.shape();
        let inputs = [
            ("image", Input::array(&image)),
            ("f2", Input::array(&f2)),
            ("f4", Input::array(&f4)),
            ("f8", Input::array(&f8)),
            ("class", Input::I64(&[1], &[class])),
            ("truth", Input::F32(&[1, 1, d, h, w], &truth)),
            ("valid", Input::F32(&[1, 1, d, h, w], &valid)),
        ];
        let mut loaded = match self.masks.take(region.shape()) {
            Some(loaded) => loaded,
            None => {
                let scale = self.adam.loss_scale;
                let machine = machine_of(&self.options, scale.is_some());
                let graph = training::mask_step(&self.preset, region.shape(), machine);
                Loaded::new(self.runtime, "mask step", graph, &self.options, scale, AfterRun::OutputsStay)?
            }
        };
        let trained = loaded.trained.clone();
        let out = loaded.run(&inputs, &self.weights, &self.shapes, self.adam.loss_scale)?;
        accumulate(gradients, named(&out, "grad", &trained)?);
        for (i, name) in ["grad.f2", "grad.f4", "grad.f8"].into_iter().enumerate() {
            add_crop(out.view(name)?, region, SCALES[i], &mut features.gradients[i]);
        }
        let loss = out.scalar("loss.mask")?;
        drop(out);
        self.masks.keep(region.shape(), loaded);
        Ok(loss)
    }
}

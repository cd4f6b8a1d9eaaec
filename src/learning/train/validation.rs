//! The whole inference chain on held-out cases, on the network's own grid: DSC per organ.

use std::collections::BTreeMap;

use ndarray::{Array3, Array4, Axis, s};

use super::boxes::CentredBox;
use super::pooling::{crop, pool};
use super::proposing::{anchors, decode, proposals, single};
use super::targets::mask_box;
use crate::engine::graph::preset::N_CLASSES;
use crate::engine::graph::{Preset, Weights, uanet};
use crate::engine::runtime::session::{Input, Outputs, Runtime, Session, SessionError, SessionOptions};
use crate::learning::dataset::{OrganSet, Sample};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// Most proposals that the refinement stage looks at.
const MOST_PROPOSALS: usize = 300;

/// DSC of every annotated organ over the cases; an organ that was not found counts as 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Validation {
    /// DSC of each case that annotates the organ.
    pub dice: BTreeMap<Organ, Vec<f32>>,
}

impl Validation {
    /// Mean over organs of the mean over cases; 0 without any.
    #[must_use]
    pub fn mean(&self) -> f32 {
        let means: Vec<f32> = self.means().map(|(_, mean)| mean).collect();
        means.iter().sum::<f32>() / means.len().max(1) as f32
    }

    /// Mean over cases of each organ.
    pub fn means(&self) -> impl Iterator<Item = (Organ, f32)> {
        self.dice.iter().map(|(organ, all)| (*organ, all.iter().sum::<f32>() / all.len().max(1) as f32))
    }
}

/// The network for segmenting, from weights in training.
pub(super) struct Segmenter {
    preset: Preset,
    trunk: Session,
    refinement: Session,
    mask: Session,
}

/// An organ that was found: its mask inside a box.
struct Found {
    region: VoxelBox,
    inside: Array3<bool>,
}

impl Segmenter {
    pub(super) fn new(
        runtime: Runtime,
        weights: &Weights,
        options: &SessionOptions,
    ) -> Result<Self, SessionError> {
        let load = |name: &str, graph: Vec<u8>| Session::from_bytes(runtime, name, &graph, options);
        Ok(Self {
            preset: weights.preset().clone(),
            trunk: load("trunk", uanet::trunk_graph(weights))?,
            refinement: load("refinement", uanet::refinement_graph(weights))?,
            mask: load("mask", uanet::mask_graph(weights))?,
        })
    }

    /// Adds the DSC of each annotated organ of a case.
    pub(super) fn measure(&mut self, sample: &Sample, into: &mut Validation) -> Result<(), SessionError> {
        let found = self.segment(sample)?;
        for organ in sample.annotated.iter() {
            let dice = dice(sample, organ, found.get(&organ));
            into.dice.entry(organ).or_default().push(dice);
        }
        Ok(())
    }

    fn segment(&mut self, sample: &Sample) -> Result<BTreeMap<Organ, Found>, SessionError> {
        let (d, h, w) = sample.image.dim();
        let shape = [d, h, w];
        let image = sample.image.view().insert_axis(Axis(0)).to_owned();
        let out = self.trunk.run(&[("image", Input::F32(&[1, 1, d, h, w], contiguous(&image)))])?;
        let (f2, f4, f8) = (map(&out, "f2")?, map(&out, "f4")?, map(&out, "f8")?);
        let (logits, deltas) = (map(&out, "logits")?, map(&out, "deltas")?);
        drop(out);
        let anchors = anchors(&self.preset, shape);
        let boxes = proposals(
            &anchors,
            contiguous(&logits),
            contiguous(&deltas),
            shape,
            &self.preset,
            MOST_PROPOSALS,
        );
        let mut found = BTreeMap::new();
        for (organ, (_, around)) in self.refine(&f8, &boxes, shape)? {
            let region = mask_box(&around, shape);
            let [image, f2, f4, f8] =
                [(&image, 1), (&f2, 2), (&f4, 4), (&f8, 8)].map(|(m, scale)| crop(m, &region, scale));
            let class = i64::try_from(organ.index()).expect("28 organs");
            let out = self.mask.run(&[
                ("image", Input::array(&image)),
                ("f2", Input::array(&f2)),
                ("f4", Input::array(&f4)),
                ("f8", Input::array(&f8)),
                ("class", Input::I64(&[1], &[class])),
            ])?;
            let logit = out.view("logit")?;
            let lowest = single(self.preset.mask_probability / (1.0 - self.preset.mask_probability)).ln();
            let inside = Array3::from_shape_vec(region.shape(), logit.iter().map(|v| *v > lowest).collect())
                .expect("the graph keeps the sides of its crop");
            found.insert(organ, Found { region, inside });
        }
        Ok(found)
    }

    /// The most probable refined box of each organ, among the proposals whose most probable class it is.
    fn refine(
        &mut self,
        f8: &Array4<f32>,
        boxes: &[CentredBox],
        shape: [usize; 3],
    ) -> Result<BTreeMap<Organ, (f32, CentredBox)>, SessionError> {
        let mut best: BTreeMap<Organ, (f32, CentredBox)> = BTreeMap::new();
        if boxes.is_empty() {
            return Ok(best);
        }
        let pooled = pool(f8, boxes);
        let width = pooled.cells.len() / boxes.len();
        let out = self.refinement.run(&[("pooled", Input::F32(&[boxes.len(), width], &pooled.cells))])?;
        let (classes, deltas) = (out.view("class_logits")?, out.view("box_deltas")?);
        for (row, from) in boxes.iter().enumerate() {
            let logits: Vec<f32> = (0..N_CLASSES).map(|class| classes[[row, class]]).collect();
            let class = (0..N_CLASSES).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
            let Some(organ) = Organ::from_class(class) else { continue };
            let total: f32 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
            let refined =
                decode(from, std::array::from_fn(|i| deltas[[row, 6 * class + i]]), shape, &self.preset);
            if best.get(&organ).is_none_or(|(probability, _)| 1.0 / total > *probability) {
                best.insert(organ, (1.0 / total, refined));
            }
        }
        Ok(best)
    }
}

/// DSC = 2 |A and B| / (|A| + |B|).
fn dice(sample: &Sample, organ: Organ, found: Option<&Found>) -> f32 {
    let bit = OrganSet::of(organ).bits();
    let truth = sample.organs.iter().filter(|voxel| **voxel & bit != 0).count();
    let Some(Found { region: VoxelBox { start, end }, inside }) = found else { return 0.0 };
    let part = sample.organs.slice(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]);
    let predicted = inside.iter().filter(|voxel| **voxel).count();
    let both = part.iter().zip(inside).filter(|(voxel, inside)| **inside && **voxel & bit != 0).count();
    if truth + predicted == 0 { 0.0 } else { 2.0 * both as f32 / (truth + predicted) as f32 }
}

/// An output of batch one without its first axis, copied.
pub(super) fn map(out: &Outputs<'_>, name: &str) -> Result<Array4<f32>, SessionError> {
    let view = out.view(name)?;
    let view = view.into_dimensionality::<ndarray::Ix5>().expect("the trunk's outputs have five axes");
    Ok(view.index_axis(Axis(0), 0).to_owned())
}

fn contiguous(map: &Array4<f32>) -> &[f32] {
    map.as_slice().expect("copied in C order")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Truth 3 voxels, prediction 4, both 2: DSC 4 / 7; an organ that was not found has 0.
    #[test]
    fn dice_by_hand() {
        let bit = OrganSet::of(Organ::Larynx).bits();
        let mut organs = Array3::zeros((4, 5, 7));
        for at in [[1, 2, 3], [1, 2, 4], [3, 4, 6]] {
            organs[at] = bit;
        }
        let image = Array3::zeros((4, 5, 7));
        let sample = Sample { name: "tiny".into(), image, organs, annotated: OrganSet::of(Organ::Larynx) };
        let region = VoxelBox { start: [1, 1, 3], end: [2, 3, 5] };
        let found = Found { region, inside: Array3::from_elem((1, 2, 2), true) };
        assert!((dice(&sample, Organ::Larynx, Some(&found)) - 4.0 / 7.0).abs() < 1e-6);
        assert!(dice(&sample, Organ::Larynx, None).abs() < 1e-9);
    }
}

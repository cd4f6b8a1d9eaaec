//! Ua-Net, written once: from here come the graphs that segment and the graphs that train.
//!
//! Source: Tang et al. 2019, Methods and Fig. 2. Tensors are `(n, channel, z, y, x)`. The trunk looks at the whole
//! volume, the refinement at pooled proposals, the mask head into one box of one organ.
//!
//! Weights are named after their place: `stem.{1,2}`, `stage2.{block}.{first,second,skip}`, `stage4`, `stage8`,
//! `stage16`, `rise`, `merge8`, `proposal.{shared,logits,deltas}`, `refinement.{first,second,classes,boxes}`,
//! `mask.{up8,merge4,up4,merge2,up2,merge1,organs}`; then `.conv.weight`, `.norm.{scale,shift,mean,variance}`, or
//! `.weight` and `.bias` where no norm follows.

use super::builder::{Element, Tensor};
use super::layers::{Form, Layers, Norms};
use super::operators::Window;
use super::preset::{COARSE_STRIDE, N_ANCHORS, N_CLASSES, Preset, ROI_SIDE};
use super::weights::{Parameter, Weights};
use crate::vocabulary::organ::Organ;

/// The trunk's outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrunkOutputs {
    /// `(1, stage2, d/2, h/2, w/2)`.
    pub(crate) f2: Tensor,
    /// `(1, stage4, d/4, h/4, w/4)`.
    pub(crate) f4: Tensor,
    /// `(1, merge8, d/8, h/8, w/8)`.
    pub(crate) f8: Tensor,
    /// `(1, anchors, d/8, h/8, w/8)`.
    pub(crate) logits: Tensor,
    /// `(1, 6 anchors, d/8, h/8, w/8)`, channel `6 anchor + coordinate`.
    pub(crate) deltas: Tensor,
}

impl TrunkOutputs {
    /// With the names that they have in every graph.
    pub(super) fn doors(self) -> [(&'static str, Tensor); 5] {
        [("f2", self.f2), ("f4", self.f4), ("f8", self.f8), ("logits", self.logits), ("deltas", self.deltas)]
    }
}

/// The mask head's inputs: crops of one box of `d, h, w` voxels, multiples of eight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crops {
    /// `(1, 1, d, h, w)`.
    pub(crate) image: Tensor,
    /// `(1, stage2, d/2, h/2, w/2)`.
    pub(crate) f2: Tensor,
    /// `(1, stage4, d/4, h/4, w/4)`.
    pub(crate) f4: Tensor,
    /// `(1, merge8, d/8, h/8, w/8)`.
    pub(crate) f8: Tensor,
    /// i64 `(1)`: class number less one, 0..28.
    pub(crate) class: Tensor,
}

/// The trunk for segmenting, as bytes of an ONNX file.
///
/// Input `image` `(1, 1, D, H, W)`, sides multiples of 16, values as `NetworkInput` has them. Outputs `f2`, `f4`, `f8`
/// (feature maps at 1/2, 1/4, 1/8), `logits` `(1, 12, D/8, H/8, W/8)`, `deltas` `(1, 72, D/8, H/8, W/8)` with channel
/// `6 anchor + coordinate`. Batch norm is folded.
#[must_use]
pub fn trunk_graph(weights: &Weights) -> Vec<u8> {
    let mut layers = Layers::new("trunk", Form::Inference(weights), weights.preset());
    let image = layers.input("image", &[1, 1, 16, 32, 48], &["", "", "D", "H", "W"]);
    let trunk = trunk(&mut layers, weights.preset(), image);
    layers.output("f2", trunk.f2, &["", "", "D2", "H2", "W2"]);
    layers.output("f4", trunk.f4, &["", "", "D4", "H4", "W4"]);
    layers.output("f8", trunk.f8, &["", "", "D8", "H8", "W8"]);
    layers.output("logits", trunk.logits, &["", "", "D8", "H8", "W8"]);
    layers.output("deltas", trunk.deltas, &["", "", "D8", "H8", "W8"]);
    layers.graph.finish()
}

/// The second stage for segmenting, as bytes of an ONNX file.
///
/// Input `pooled` `(n, merge8 * 216)`: cells of `f8` in the order channel, z, y, x. Outputs `class_logits` `(n, 29)`, 0 is
/// background, and `box_deltas` `(n, 174)`, column `6 class + coordinate`.
#[must_use]
pub fn refinement_graph(weights: &Weights) -> Vec<u8> {
    let preset = weights.preset();
    let mut layers = Layers::new("refinement", Form::Inference(weights), preset);
    let pooled = layers.input("pooled", &[2, pooled_width(preset)], &["n", ""]);
    let (classes, boxes) = refinement(&mut layers, preset, pooled);
    layers.output("class_logits", classes, &["n", ""]);
    layers.output("box_deltas", boxes, &["n", ""]);
    layers.graph.finish()
}

/// The mask head for segmenting, as bytes of an ONNX file.
///
/// Inputs: `image` `(1, 1, d, h, w)` and `f2`, `f4`, `f8` cropped to the same box, whose corners are multiples of eight,
/// and `class`, i64 `(1)`, the class number less one (0..28). Output `logit` `(1, 1, d, h, w)`.
#[must_use]
pub fn mask_graph(weights: &Weights) -> Vec<u8> {
    let preset = weights.preset();
    let mut layers = Layers::new("mask", Form::Inference(weights), preset);
    let crops = crops(&mut layers, preset, [16, 24, 32], true);
    let logit = mask(&mut layers, preset, crops);
    layers.output("logit", logit, &["", "", "d", "h", "w"]);
    layers.graph.finish()
}

/// Columns of `pooled`: channels of `f8` times the cells of a pooled proposal.
#[must_use]
pub fn pooled_width(preset: &Preset) -> usize {
    preset.channels.merge8 * ROI_SIDE.pow(3)
}

/// Every tensor of a preset: trunk, refinement and mask head, then the running statistics.
pub(super) fn parameters(preset: &Preset) -> Vec<Parameter> {
    let mut layers = Layers::new("parameters", Form::Training(Norms::Batch), preset);
    let image = layers.input("image", &[1, 1, 16, 16, 16], &[]);
    trunk(&mut layers, preset, image);
    let pooled = layers.input("pooled", &[1, pooled_width(preset)], &[]);
    refinement(&mut layers, preset, pooled);
    let crops = crops(&mut layers, preset, [8, 8, 8], false);
    mask(&mut layers, preset, crops);
    layers.move_running();
    layers.parameters.into_iter().map(|(parameter, _)| parameter).collect()
}

/// Backbone and region proposals.
pub(super) fn trunk(layers: &mut Layers<'_>, preset: &Preset, image: Tensor) -> TrunkOutputs {
    let (channels, blocks) = (&preset.channels, &preset.blocks);
    let halving = Window { stride: 2, ..CUBE };
    let x = layers.conv_norm(image, "stem.1", channels.stem, halving);
    let x = layers.relu(x);
    let x = layers.conv_norm(x, "stem.2", channels.stem, CUBE);
    let x = layers.relu(x);
    let f2 = stage(layers, x, "stage2", channels.stage2, blocks.stage2);
    let x = layers.max_pool(f2);
    let f4 = stage(layers, x, "stage4", channels.stage4, blocks.stage4);
    let x = layers.max_pool(f4);
    let down8 = stage(layers, x, "stage8", channels.stage8, blocks.stage8);
    let x = layers.max_pool(down8);
    let x = stage(layers, x, "stage16", channels.stage16, blocks.stage16);
    let up8 = layers.rise_norm(x, "rise", channels.rise);
    let up8 = layers.relu(up8);
    let x = layers.concat(&[up8, down8], 1);
    let f8 = stage(layers, x, "merge8", channels.merge8, blocks.merge8);
    let x = layers.conv_point(f8, "proposal.shared", channels.proposal);
    let x = layers.relu(x);
    let logits = layers.conv_point(x, "proposal.logits", N_ANCHORS);
    let deltas = layers.conv_point(x, "proposal.deltas", 6 * N_ANCHORS);
    TrunkOutputs { f2, f4, f8, logits, deltas }
}

/// Class logits and box deltas of pooled proposals.
pub(super) fn refinement(layers: &mut Layers<'_>, preset: &Preset, pooled: Tensor) -> (Tensor, Tensor) {
    let x = layers.full(pooled, "refinement.first", preset.channels.first_full);
    let x = layers.relu(x);
    let x = layers.full(x, "refinement.second", preset.channels.second_full);
    let x = layers.relu(x);
    (layers.full(x, "refinement.classes", N_CLASSES), layers.full(x, "refinement.boxes", 6 * N_CLASSES))
}

/// The logit of one organ in its box.
pub(super) fn mask(layers: &mut Layers<'_>, preset: &Preset, crops: Crops) -> Tensor {
    let channels = preset.channels.mask;
    let mut x = crops.f8;
    for (up, merge, finer) in [
        ("mask.up8", "mask.merge4", crops.f4),
        ("mask.up4", "mask.merge2", crops.f2),
        ("mask.up2", "mask.merge1", crops.image),
    ] {
        x = layers.double(x);
        x = layers.conv_contrast(x, up, channels);
        x = layers.relu(x);
        x = layers.concat(&[x, finer], 1);
        x = layers.conv_contrast(x, merge, channels);
        x = layers.relu(x);
    }
    layers.conv_of_class(x, "mask.organs", crops.class, Organ::COUNT)
}

/// The mask head's doors for a box of `sides` `(d, h, w)`; with named sides where `free`.
pub(super) fn crops(layers: &mut Layers<'_>, preset: &Preset, sides: [usize; 3], free: bool) -> Crops {
    assert!(
        sides.iter().all(|side| side % COARSE_STRIDE == 0),
        "sides of a mask box are multiples of eight: {sides:?}"
    );
    let channels = &preset.channels;
    let mut map = |name: &str, channels: usize, scale: usize, names: [&str; 3]| {
        let shape = [1, channels, sides[0] / scale, sides[1] / scale, sides[2] / scale];
        let names = ["", "", names[0], names[1], names[2]];
        layers.input(name, &shape, if free { &names } else { &[] })
    };
    let image = map("image", 1, 1, ["d", "h", "w"]);
    let f2 = map("f2", channels.stage2, 2, ["d2", "h2", "w2"]);
    let f4 = map("f4", channels.stage4, 4, ["d4", "h4", "w4"]);
    let f8 = map("f8", channels.merge8, 8, ["d8", "h8", "w8"]);
    let class = layers.graph.input("class", Element::I64, &[1]);
    Crops { image, f2, f4, f8, class }
}

/// Three taps per axis, same size out as in.
const CUBE: Window = Window { kernel: 3, stride: 1, padding: 1 };

/// Residual blocks one after the other, numbered from one.
fn stage(layers: &mut Layers<'_>, x: Tensor, name: &str, channels: usize, blocks: usize) -> Tensor {
    (1..=blocks).fold(x, |x, block| residual(layers, x, &format!("{name}.{block}"), channels))
}

/// Two convolutions and the input added; the input through a convolution of kernel one where channels differ.
fn residual(layers: &mut Layers<'_>, x: Tensor, name: &str, channels: usize) -> Tensor {
    let y = layers.conv_norm(x, &format!("{name}.first"), channels, CUBE);
    let y = layers.relu(y);
    let y = layers.conv_norm(y, &format!("{name}.second"), channels, CUBE);
    let skip = if layers.graph.shape(x)[1] == channels {
        x
    } else {
        let point = Window { kernel: 1, stride: 1, padding: 0 };
        layers.conv_norm(x, &format!("{name}.skip"), channels, point)
    };
    let sum = layers.add(y, skip);
    layers.relu(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_the_reference_has_the_published_size() {
        let parameters = parameters(&Preset::reference());
        let mut names: Vec<_> = parameters.iter().map(|parameter| &parameter.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), parameters.len());
        let first = parameters.iter().find(|parameter| parameter.name == "refinement.first.weight").unwrap();
        assert_eq!(first.shape, [512, 128 * 216]);
        let merge = parameters.iter().find(|parameter| parameter.name == "mask.merge1.conv.weight").unwrap();
        assert_eq!(merge.shape, [64, 65, 3, 3, 3]);
    }
}

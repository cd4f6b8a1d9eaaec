//! The three graphs of a model, run one after the other.

use ndarray::{Array2, Array3, Array4, ArrayView2, Axis, Ix2, Ix5};

use super::OrganMask;
use super::mask_head::{crop, mask_box};
use super::network_box::NetworkBox;
use super::proposals::{Proposal, ProposalLimits, proposals, sigmoid};
use super::refinement::{Detection, detections, refined};
use super::roi_pool::pool;
use crate::engine::graph::preset::{COARSE_STRIDE, INPUT_MULTIPLE, N_ANCHORS, N_CLASSES};
use crate::engine::graph::{NoFlatForm, Preset, flat};
use crate::engine::runtime::session::{
    Input, Outputs, Provider, Runtime, Session, SessionError, SessionOptions,
};
use crate::pipeline::volume::{InputForm, NetworkInput};
use crate::vocabulary::space::VoxelBox;

/// Why the network gave no masks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The model's architecture is not one of ours.
    #[error(
        "the model wants the preset {found}; this program has reference, starter and close-up: use the program that made the model"
    )]
    Preset {
        /// Name in the manifest.
        found: String,
    },
    /// The runtime failed.
    #[error("the network's {part} failed")]
    Session {
        /// Which part.
        part: &'static str,
        /// Why.
        #[source]
        source: SessionError,
    },
    /// A graph that the program cannot rewrite for the processor.
    #[error("the {part} graph is not one that this program writes: use the program that made the model")]
    Form {
        /// Which part.
        part: &'static str,
        /// Why.
        #[source]
        source: NoFlatForm,
    },
    /// A graph gave a tensor of another shape.
    #[error(
        "wanted {output} of shape {wanted}, the {part} gave {found:?}: graph and preset do not belong together"
    )]
    Shape {
        /// Which part.
        part: &'static str,
        /// Which output.
        output: &'static str,
        /// Shape by the preset.
        wanted: String,
        /// Shape that came.
        found: Vec<usize>,
    },
    /// The input has sides that the trunk cannot halve four times.
    #[error("the network's input has {shape:?} voxels (z, y, x); sides must be multiples of 16")]
    Input {
        /// Its sides.
        shape: [usize; 3],
    },
    /// The network computed something that is no number.
    #[error(
        "the {part} gave values that are no numbers on {provider}: the model file or the GPU is at fault, try the CPU"
    )]
    NotANumber {
        /// Which part.
        part: &'static str,
        /// Where it ran.
        provider: Provider,
    },
}

/// The graphs of a model as its files hold them.
#[derive(Debug, Clone, Copy)]
pub struct ModelGraphs<'a> {
    /// Name of the preset.
    pub preset: &'a str,
    /// `image` -> `f2`, `f4`, `f8`, `logits`, `deltas`.
    pub trunk: &'a [u8],
    /// `pooled` -> `class_logits`, `box_deltas`.
    pub refinement: &'a [u8],
    /// `image`, `f2`, `f4`, `f8`, `class` -> `logit`.
    pub mask: &'a [u8],
}

/// A model ready to segment. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Network {
    preset: Preset,
    trunk: Session,
    refinement: Session,
    mask: Session,
}

/// Everything that the network computes on its way; maps without the batch axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Axes `(channel, z, y, x)`, 1/2 of the input.
    pub f2: Array4<f32>,
    /// 1/4.
    pub f4: Array4<f32>,
    /// 1/8.
    pub f8: Array4<f32>,
    /// `(12, z, y, x)`, 1/8.
    pub logits: Array4<f32>,
    /// `(72, z, y, x)`, 1/8, channel `6 anchor + coordinate`.
    pub deltas: Array4<f32>,
    /// Most probable first.
    pub proposals: Vec<Proposal>,
    /// `(n, 29)`, rows as `proposals`.
    pub class_logits: Array2<f32>,
    /// `(n, 174)`, column `6 class + coordinate`.
    pub box_deltas: Array2<f32>,
    /// All refined boxes, in class order and within one most probable first.
    pub refined: Vec<Detection>,
    /// At most one per organ, in class order.
    pub detections: Vec<Detection>,
    /// Box and logits `(z, y, x)` of each detection.
    pub masks: Vec<(VoxelBox, Array3<f32>)>,
}

/// The feature maps of an input, axes `(channel, z, y, x)`.
struct Maps {
    f2: Array4<f32>,
    f4: Array4<f32>,
    f8: Array4<f32>,
    logits: Array4<f32>,
    deltas: Array4<f32>,
    proposals: Vec<Proposal>,
}

/// What stage two says of each proposal.
struct Verdict {
    class_logits: Array2<f32>,
    box_deltas: Array2<f32>,
    refined: Vec<Detection>,
}

/// Proposals that are pooled at a time: 110 MB of cells in `reference`.
const POOLED_AT_ONCE: usize = 1_000;

impl Network {
    /// Loads the three graphs of a model; on the processor in their flat form ([`flat`]), which is computed here.
    ///
    /// # Errors
    /// [`NetworkError::Preset`] for an unknown architecture, [`NetworkError::Session`] where a graph cannot be loaded.
    pub fn load(
        graphs: ModelGraphs<'_>,
        runtime: Runtime,
        options: &SessionOptions,
    ) -> Result<Self, NetworkError> {
        let preset = Preset::named(graphs.preset)
            .ok_or_else(|| NetworkError::Preset { found: graphs.preset.to_owned() })?;
        let load = |part: &'static str, graph: &[u8]| {
            Session::from_bytes(runtime, part, graph, options)
                .map_err(|source| NetworkError::Session { part, source })
        };
        let load_convolutions = |part: &'static str, plain: &[u8], depth_multiple: usize| {
            if options.provider != Provider::Cpu {
                return load(part, plain);
            }
            let flat = flat(plain, depth_multiple).map_err(|source| NetworkError::Form { part, source })?;
            load(part, &flat)
        };
        Ok(Self {
            preset,
            trunk: load_convolutions("trunk", graphs.trunk, INPUT_MULTIPLE)?,
            refinement: load("refinement", graphs.refinement)?,
            mask: load_convolutions("mask", graphs.mask, COARSE_STRIDE)?,
        })
    }

    /// The numbers of its architecture.
    #[must_use]
    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    /// Where it runs, for the record.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.trunk.provider()
    }

    /// How its input must be.
    #[must_use]
    pub fn input_form(&self) -> InputForm {
        InputForm {
            spacing_mm: self.preset.spacing_mm,
            multiple: INPUT_MULTIPLE,
            largest: self.preset.largest_input,
        }
    }

    /// Which of several windows of one scan shows the head and neck: the one with the highest sum of detection
    /// probabilities, the first of equals. With one window there is nothing to look at.
    ///
    /// # Errors
    /// As [`Network::segment`].
    ///
    /// # Panics
    /// Without windows.
    pub fn most_promising<'a>(
        &mut self,
        windows: &'a [NetworkInput],
    ) -> Result<&'a NetworkInput, NetworkError> {
        let mut best = (&windows[0], f32::MIN);
        if windows.len() == 1 {
            return Ok(best.0);
        }
        for window in windows {
            let (_, found) = self.detect(window)?;
            let sum: f32 = found.iter().map(|detection| detection.probability).sum();
            if sum > best.1 {
                best = (window, sum);
            }
        }
        Ok(best.0)
    }

    /// The organs found, in class order; of a close-up its own alone.
    ///
    /// # Errors
    /// [`NetworkError`]: sides that are no multiples of 16, a run that failed, a graph that does not fit the preset,
    /// values that are no numbers.
    pub fn segment(&mut self, input: &NetworkInput) -> Result<Vec<OrganMask>, NetworkError> {
        let (maps, found) = self.detect(input)?;
        tracing::info!(
            provider = %self.provider(),
            n_proposals = maps.proposals.len(),
            n_organs = found.len(),
            "network ran"
        );
        let shape = input.tensor.dim().into();
        found.into_iter().map(|detection| self.mask(&input.tensor, &maps, detection, shape)).collect()
    }

    /// Feature maps and detections.
    fn detect(&mut self, input: &NetworkInput) -> Result<(Maps, Vec<Detection>), NetworkError> {
        let shape: [usize; 3] = input.tensor.dim().into();
        if shape.iter().any(|side| *side == 0 || side % INPUT_MULTIPLE != 0) {
            return Err(NetworkError::Input { shape });
        }
        let maps = self.trunk(&input.tensor, shape, ProposalLimits::DELIVERED)?;
        let mut found = detections(&self.refine(&maps, shape)?.refined);
        if let Some(close_up) = &self.preset.close_up {
            found.retain(|detection| close_up.is_for(detection.organ));
        }
        Ok((maps, found))
    }

    /// As [`Network::segment`], with everything on the way, and as many proposals as the original would look at.
    ///
    /// # Errors
    /// As [`Network::segment`].
    pub fn trace(&mut self, input: &NetworkInput) -> Result<Trace, NetworkError> {
        let shape: [usize; 3] = input.tensor.dim().into();
        if shape.iter().any(|side| *side == 0 || side % INPUT_MULTIPLE != 0) {
            return Err(NetworkError::Input { shape });
        }
        let maps = self.trunk(&input.tensor, shape, ProposalLimits::COMPARED_WITH_ORIGINAL)?;
        let Verdict { class_logits, box_deltas, refined } = self.refine(&maps, shape)?;
        let detections = detections(&refined);
        let masks = detections.iter().map(|found| self.logit(&input.tensor, &maps, found, shape));
        let masks = masks.collect::<Result<_, _>>()?;
        let Maps { f2, f4, f8, logits, deltas, proposals } = maps;
        Ok(Trace {
            f2,
            f4,
            f8,
            logits,
            deltas,
            proposals,
            class_logits,
            box_deltas,
            refined,
            detections,
            masks,
        })
    }

    fn trunk(
        &mut self,
        image: &Array3<f32>,
        shape: [usize; 3],
        limits: ProposalLimits,
    ) -> Result<Maps, NetworkError> {
        let part = "trunk";
        let provider = self.provider();
        let [d, h, w] = shape;
        let image = image.as_standard_layout();
        let values = image.as_slice().expect("in C order by the line above");
        let out = self
            .trunk
            .run(&[("image", Input::F32(&[1, 1, d, h, w], values))])
            .map_err(|source| NetworkError::Session { part, source })?;
        let channels = &self.preset.channels;
        let map = |output: &'static str, channels: usize, scale: usize| {
            five(&out, part, output, [channels, d / scale, h / scale, w / scale])
        };
        let logits = map("logits", N_ANCHORS, 8)?;
        let deltas = map("deltas", 6 * N_ANCHORS, 8)?;
        if logits.iter().chain(&deltas).any(|value| value.is_nan()) {
            return Err(NetworkError::NotANumber { part, provider });
        }
        let proposals = proposals(&self.preset, logits.view(), deltas.view(), shape, limits);
        Ok(Maps {
            f2: map("f2", channels.stage2, 2)?,
            f4: map("f4", channels.stage4, 4)?,
            f8: map("f8", channels.merge8, 8)?,
            logits,
            deltas,
            proposals,
        })
    }

    fn refine(&mut self, maps: &Maps, shape: [usize; 3]) -> Result<Verdict, NetworkError> {
        let boxes: Vec<NetworkBox> = maps.proposals.iter().map(|proposal| proposal.around).collect();
        let mut class_logits = Array2::zeros((0, N_CLASSES));
        let mut box_deltas = Array2::zeros((0, 6 * N_CLASSES));
        for part in boxes.chunks(POOLED_AT_ONCE) {
            let (classes, deltas) = self.judge(maps, part)?;
            class_logits.append(Axis(0), classes.view()).expect("as many columns as there are classes");
            box_deltas.append(Axis(0), deltas.view()).expect("as many columns as there are classes");
        }
        let refined = refined(&self.preset, &boxes, class_logits.view(), box_deltas.view(), shape);
        Ok(Verdict { class_logits, box_deltas, refined })
    }

    /// Class logits and box deltas of proposals.
    fn judge(
        &mut self,
        maps: &Maps,
        boxes: &[NetworkBox],
    ) -> Result<(Array2<f32>, Array2<f32>), NetworkError> {
        let part = "refinement";
        let provider = self.provider();
        let pooled = pool(maps.f8.view(), boxes);
        let out = self
            .refinement
            .run(&[("pooled", Input::array(&pooled.cells))])
            .map_err(|source| NetworkError::Session { part, source })?;
        let classes = out.view("class_logits").map_err(|source| NetworkError::Session { part, source })?;
        let deltas = out.view("box_deltas").map_err(|source| NetworkError::Session { part, source })?;
        let classes = two(classes, "class_logits", [boxes.len(), N_CLASSES])?;
        let deltas = two(deltas, "box_deltas", [boxes.len(), 6 * N_CLASSES])?;
        if classes.iter().chain(&deltas).any(|value| value.is_nan()) {
            return Err(NetworkError::NotANumber { part, provider });
        }
        Ok((classes.to_owned(), deltas.to_owned()))
    }

    fn mask(
        &mut self,
        image: &Array3<f32>,
        maps: &Maps,
        detection: Detection,
        shape: [usize; 3],
    ) -> Result<OrganMask, NetworkError> {
        let (region, mut probability) = self.logit(image, maps, &detection, shape)?;
        probability.mapv_inplace(sigmoid);
        let Detection { organ, probability: detection_probability, .. } = detection;
        Ok(OrganMask { organ, detection_probability, region, probability })
    }

    /// The mask head's logits in the box of a detection.
    fn logit(
        &mut self,
        image: &Array3<f32>,
        maps: &Maps,
        detection: &Detection,
        shape: [usize; 3],
    ) -> Result<(VoxelBox, Array3<f32>), NetworkError> {
        let part = "mask";
        let provider = self.provider();
        let region = mask_box(detection.around, shape);
        let image = crop(image.view().insert_axis(Axis(0)), region, 1);
        let [f2, f4, f8] =
            [(&maps.f2, 2), (&maps.f4, 4), (&maps.f8, 8)].map(|(map, scale)| crop(map.view(), region, scale));
        let class = i64::try_from(detection.organ.index()).expect("28 organs");
        let inputs = [
            ("image", Input::array(&image)),
            ("f2", Input::array(&f2)),
            ("f4", Input::array(&f4)),
            ("f8", Input::array(&f8)),
            ("class", Input::I64(&[1], &[class])),
        ];
        let out = self.mask.run(&inputs).map_err(|source| NetworkError::Session { part, source })?;
        let [d, h, w] = region.shape();
        let logit = five(&out, part, "logit", [1, d, h, w])?.index_axis_move(Axis(0), 0);
        if logit.iter().any(|value| value.is_nan()) {
            return Err(NetworkError::NotANumber { part, provider });
        }
        Ok((region, logit))
    }
}

/// An output of batch one without its first axis, copied.
fn five(
    out: &Outputs<'_>,
    part: &'static str,
    output: &'static str,
    wanted: [usize; 4],
) -> Result<Array4<f32>, NetworkError> {
    let view = out.view(output).map_err(|source| NetworkError::Session { part, source })?;
    let found = view.shape().to_vec();
    let other = || NetworkError::Shape { part, output, wanted: format!("1 and {wanted:?}"), found };
    match view.into_dimensionality::<Ix5>() {
        Ok(view) if view.shape()[0] == 1 && view.shape()[1..] == wanted => {
            Ok(view.index_axis_move(Axis(0), 0).to_owned())
        }
        _ => Err(other()),
    }
}

fn two<'a>(
    view: ndarray::ArrayViewD<'a, f32>,
    output: &'static str,
    wanted: [usize; 2],
) -> Result<ArrayView2<'a, f32>, NetworkError> {
    let found = view.shape().to_vec();
    let other = || NetworkError::Shape { part: "refinement", output, wanted: format!("{wanted:?}"), found };
    match view.into_dimensionality::<Ix2>() {
        Ok(view) if view.shape() == wanted => Ok(view),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::{Weights, uanet};
    use crate::engine::runtime::session::runtime_of_tests;
    use crate::vocabulary::space::{Grid, PatientPoint};

    fn network(runtime: Runtime) -> Network {
        let weights = Weights::start(&Preset::starter(), 5);
        let (trunk, refinement, mask) =
            (uanet::trunk_graph(&weights), uanet::refinement_graph(&weights), uanet::mask_graph(&weights));
        let graphs = ModelGraphs { preset: "starter", trunk: &trunk, refinement: &refinement, mask: &mask };
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        Network::load(graphs, runtime, &options).unwrap()
    }

    fn input(shape: [usize; 3]) -> NetworkInput {
        let tensor = Array3::from_shape_fn(shape, |(z, y, x)| ((z + 2 * y + 5 * x) % 11) as f32 / 6.0 - 1.0);
        let grid = Grid::axial(shape, [3.0, 2.5, 2.5], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        NetworkInput { tensor, grid }
    }

    /// Fresh weights detect whatever they detect; what comes must keep the room's promises, twice alike.
    #[test]
    fn masks_lie_in_boxes_of_eights_at_most_one_per_organ_in_class_order() {
        let Some(runtime) = runtime_of_tests("masks_lie_in_boxes") else { return };
        let mut network = network(runtime);
        let input = input([32, 48, 64]);
        let masks = network.segment(&input).unwrap();
        assert!(masks.windows(2).all(|pair| pair[0].organ < pair[1].organ));
        for mask in &masks {
            assert_eq!(mask.probability.shape(), mask.region.shape());
            assert!(mask.region.start.iter().chain(&mask.region.end).all(|corner| corner % 8 == 0));
            assert!(mask.region.end.iter().zip([32, 48, 64]).all(|(end, side)| *end <= side));
            assert!(mask.probability.iter().all(|p| (0.0..=1.0).contains(p)));
        }
        assert_eq!(network.segment(&input).unwrap(), masks);
    }

    /// The mask of a detection is the mask graph's logit through a sigmoid, on the crop under its box.
    #[test]
    fn a_detection_becomes_a_mask_in_its_box() {
        let Some(runtime) = runtime_of_tests("a_detection_becomes_a_mask") else { return };
        let mut network = network(runtime);
        let input = input([32, 48, 64]);
        let maps = network.trunk(&input.tensor, [32, 48, 64], ProposalLimits::DELIVERED).unwrap();
        let around = NetworkBox::from_array([12.0, 20.0, 41.0, 9.0, 12.0, 20.0]);
        let detection = |organ| Detection { organ, around, probability: 0.75 };
        use crate::vocabulary::organ::Organ;
        let mask = network.mask(&input.tensor, &maps, detection(Organ::Thyroid), [32, 48, 64]).unwrap();
        assert_eq!((mask.region.start, mask.region.end), ([0, 8, 24], [16, 32, 56]));
        assert_eq!(mask.probability.dim(), (16, 24, 32));
        let other = network.mask(&input.tensor, &maps, detection(Organ::Trachea), [32, 48, 64]).unwrap();
        assert_ne!(mask.probability, other.probability, "the class chooses the last layer");
    }

    #[test]
    fn sides_that_cannot_be_halved_four_times_are_refused() {
        let Some(runtime) = runtime_of_tests("sides_that_cannot_be_halved") else { return };
        let error = network(runtime).segment(&input([32, 40, 64])).unwrap_err();
        assert!(error.to_string().contains("[32, 40, 64]"), "{error}");
    }
}

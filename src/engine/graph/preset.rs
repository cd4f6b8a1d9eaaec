//! Every number of the architecture and of its arithmetic.
//!
//! Boxes and sides are `(z, y, x)` or `(d, h, w)` in voxels of the network grid unless a name ends in `_mm`.
//! Source of the `reference` numbers: Tang et al. 2019, Methods, and what its public implementation computes.

use super::close_up::CloseUp;
use crate::vocabulary::organ::Organ;

/// Anchors per position of the coarse map: the count of RPN logits.
pub const N_ANCHORS: usize = 12;
/// Classes of the second stage: background and the 28 organs.
pub const N_CLASSES: usize = Organ::COUNT + 1;
/// Cells per side of a pooled proposal.
pub const ROI_SIDE: usize = 6;
/// Voxels per side of one position of the coarse map `f8`, and what mask boxes are multiples of.
pub const COARSE_STRIDE: usize = 8;
/// Sides of the network's input are multiples of this: four halvings.
pub const INPUT_MULTIPLE: usize = 16;

/// What descendants of a preset may differ in: the fields of [`Channels`], then those of [`Blocks`].
pub const WIDTHS: [&str; 16] = [
    "stem",
    "stage2",
    "stage4",
    "stage8",
    "stage16",
    "rise",
    "merge8",
    "proposal",
    "first_full",
    "second_full",
    "mask",
    "blocks2",
    "blocks4",
    "blocks8",
    "blocks16",
    "blocks_merge8",
];
/// No part of a network is wider: the published one has 512, and at 1024 a checkpoint has a gigabyte.
pub const MOST_WIDTH: usize = 1024;
/// No stage has more residual blocks.
pub const MOST_BLOCKS: usize = 16;

/// How many channels each part of the network carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channels {
    /// After the first two convolutions (1/2 of the input's resolution).
    pub stem: usize,
    /// `f2`, 1/2.
    pub stage2: usize,
    /// `f4`, 1/4.
    pub stage4: usize,
    /// The way down at 1/8.
    pub stage8: usize,
    /// The bottom, 1/16.
    pub stage16: usize,
    /// The transposed convolution back up to 1/8.
    pub rise: usize,
    /// `f8`, 1/8, after the way up is joined with the way down.
    pub merge8: usize,
    /// Shared layer of the region proposals.
    pub proposal: usize,
    /// First fully connected layer of the second stage.
    pub first_full: usize,
    /// Second fully connected layer of the second stage.
    pub second_full: usize,
    /// Every layer of the mask head.
    pub mask: usize,
}

/// How many residual blocks each stage has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// 1/2.
    pub stage2: usize,
    /// 1/4.
    pub stage4: usize,
    /// 1/8, way down.
    pub stage8: usize,
    /// 1/16.
    pub stage16: usize,
    /// 1/8, way up.
    pub merge8: usize,
}

/// One architecture with all its numbers; [`Preset::reference`], [`Preset::starter`] and [`Preset::close_up`] make them, and
/// [`Preset::with_widths`] the descendants of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// Written into manifests and weight files; a graph of one preset never takes weights of another. [`Preset::named`]
    /// makes the preset of it.
    pub name: String,
    /// Spacing of the network grid, mm, `(z, y, x)`.
    pub spacing_mm: [f64; 3],
    /// Channels of each part.
    pub channels: Channels,
    /// Residual blocks of each stage.
    pub blocks: Blocks,
    /// Sides `(d, h, w)` in voxels of the anchors, in the order of the RPN's channels.
    pub anchors: [[f64; 3]; N_ANCHORS],
    /// Factors of box deltas `(z, y, x, d, h, w)`: `dz = 10 (tz - az) / ad`, `dd = 5 ln(td / ad)`.
    pub box_weights: [f64; 6],
    /// A proposal is kept above this RPN probability.
    pub proposal_probability: f64,
    /// Among proposals, one goes when its IoU with a kept one reaches this.
    pub proposal_nms_iou: f64,
    /// Among refined boxes of one class, one goes when its IoU with a kept one reaches this.
    pub class_nms_iou: f64,
    /// A voxel belongs to the organ above this probability.
    pub mask_probability: f64,
    /// Voxels by which an organ's bounding box grows `(z, y, x)`, both sides together, to become a true box.
    pub box_enlargement: [f64; 3],
    /// Largest input at inference, `(z, y, x)`; the top-most slices are kept.
    pub largest_input: [usize; 3],
    /// Largest crop in training, `(z, y, x)`, round the centre.
    pub largest_crop: [usize; 3],
    /// Voxels by which a training crop may be shifted, `(z, y, x)`.
    pub crop_jitter: [usize; 3],
    /// The window that it looks at and its organs, where it is not for whole scans and all organs.
    pub close_up: Option<CloseUp>,
    /// Numbers of target assignment.
    pub targets: TargetRules,
    /// Share of the old running statistics that one step replaces (batch norm).
    pub norm_momentum: f64,
    /// Added to variances before the root (batch norm and local contrast normalisation).
    pub norm_epsilon: f64,
}

/// When an anchor or a proposal counts as organ or as background.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetRules {
    /// An anchor is positive from this IoU on (the best anchor of an organ always is).
    pub anchor_positive_iou: f64,
    /// An anchor is negative below this IoU with every organ.
    pub anchor_negative_iou: f64,
    /// At most so many negative anchors are drawn.
    pub anchor_negatives: usize,
    /// A proposal is foreground from this IoU on.
    pub proposal_foreground_iou: f64,
    /// A proposal is background below this IoU with every organ.
    pub proposal_background_iou: f64,
    /// Foreground proposals per organ.
    pub proposals_per_organ: usize,
    /// Proposals of one second-stage batch, filled up with background.
    pub proposal_batch: usize,
}

impl Preset {
    /// The published architecture. Source of every number: Tang et al. 2019, Methods, and its implementation;
    /// `merge8` is 128 there (the text says 64).
    #[must_use]
    pub fn reference() -> Self {
        let bases = [7.0, 15.0, 30.0, 50.0];
        let aspects = [[1.0, 2.5, 2.5], [1.0, 2.5, 5.0], [1.0, 5.0, 2.5]];
        let anchors =
            std::array::from_fn(|anchor| aspects[anchor % 3].map(|ratio| ratio * bases[anchor / 3]));
        Self {
            name: "reference".to_owned(),
            spacing_mm: [2.5, 0.976_562, 0.976_562],
            channels: Channels {
                stem: 24,
                stage2: 32,
                stage4: 64,
                stage8: 64,
                stage16: 64,
                rise: 64,
                merge8: 128,
                proposal: 64,
                first_full: 512,
                second_full: 256,
                mask: 64,
            },
            blocks: Blocks { stage2: 2, stage4: 2, stage8: 3, stage16: 3, merge8: 3 },
            anchors,
            box_weights: [10.0, 10.0, 10.0, 5.0, 5.0, 5.0],
            proposal_probability: 0.5,
            proposal_nms_iou: 0.5,
            class_nms_iou: 0.5,
            mask_probability: 0.5,
            box_enlargement: [4.0, 8.0, 8.0],
            largest_input: [256, 320, 320],
            largest_crop: [160, 240, 240],
            crop_jitter: [4, 16, 16],
            close_up: None,
            targets: TargetRules {
                anchor_positive_iou: 0.5,
                anchor_negative_iou: 0.1,
                anchor_negatives: 80_000,
                proposal_foreground_iou: 0.5,
                proposal_background_iou: 0.2,
                proposals_per_organ: 4,
                proposal_batch: 128,
            },
            norm_momentum: 0.1,
            norm_epsilon: 1e-5,
        }
    }

    /// A coarser and thinner network that two cores can train within hours and any CPU runs in seconds.
    ///
    /// The method's numbers stay; grid, channels and anchors are ours. Each anchor is the box of some organ of an adult,
    /// enlarged as true boxes are, because on this grid a cube of one size fits few of them.
    #[must_use]
    pub fn starter() -> Self {
        let spacing_mm = [3.0, 2.5, 2.5];
        let boxes_mm: [[f64; 3]; N_ANCHORS] = [
            [22.0, 20.0, 20.0],   // lens, hypophysis
            [24.0, 42.0, 24.0],   // optic nerve, jaw joint
            [24.0, 30.0, 40.0],   // chiasm, sublingual gland
            [36.0, 36.0, 36.0],   // eye, ear, submandibular gland
            [48.0, 42.0, 72.0],   // thyroid
            [66.0, 46.0, 44.0],   // brain stem, larynx
            [72.0, 60.0, 46.0],   // parotid
            [72.0, 80.0, 76.0],   // oral cavity
            [72.0, 110.0, 56.0],  // temporal lobe
            [90.0, 110.0, 125.0], // mandible, brachial plexus
            [110.0, 40.0, 44.0],  // trachea, constrictor
            [230.0, 40.0, 40.0],  // spinal cord
        ];
        Self {
            name: "starter".to_owned(),
            spacing_mm,
            channels: Channels {
                stem: 12,
                stage2: 16,
                stage4: 32,
                stage8: 32,
                stage16: 32,
                rise: 32,
                merge8: 64,
                proposal: 32,
                first_full: 128,
                second_full: 128,
                mask: 24,
            },
            anchors: boxes_mm.map(|sides| std::array::from_fn(|axis| sides[axis] / spacing_mm[axis])),
            box_enlargement: [4.0, 4.0, 4.0],
            largest_input: [176, 128, 160],
            largest_crop: [112, 96, 112],
            crop_jitter: [4, 8, 8],
            ..Self::reference()
        }
    }

    /// A second look at the small organs of the head, on twice the starter's resolution: layers, channels and method are
    /// the starter's, whose weights it can begin with. Anchors and window are ours.
    #[must_use]
    pub fn close_up() -> Self {
        let spacing_mm = [1.5, 1.25, 1.25];
        // Usual boxes in both atlases (docs/synthetic.md), enlarged as true boxes are.
        let boxes_mm: [[f64; 3]; N_ANCHORS] = [
            [15.0, 13.0, 16.0], // lens of a child
            [18.0, 15.0, 19.0], // lens
            [22.0, 20.0, 22.0], // hypophysis
            [16.0, 19.0, 25.0], // chiasm
            [24.0, 40.0, 32.0], // optic nerve
            [29.0, 42.0, 38.0],
            [28.0, 30.0, 29.0], // eye of a child
            [33.0, 35.0, 34.0], // eye
            [26.0, 30.0, 36.0], // ear
            [24.0, 29.0, 32.0], // jaw joint
            [24.0, 37.0, 27.0],
            [20.0, 26.0, 30.0], // ear or joint of a child
        ];
        let close_up = CloseUp::of_the_head();
        Self {
            name: "close-up".to_owned(),
            spacing_mm,
            anchors: boxes_mm.map(|sides| std::array::from_fn(|axis| sides[axis] / spacing_mm[axis])),
            box_enlargement: [6.0, 8.0, 8.0],
            largest_input: close_up.window,
            largest_crop: close_up.window,
            close_up: Some(close_up),
            ..Self::starter()
        }
    }

    /// The preset of a name that a manifest or a weight file carries: `reference`, `starter`, `close-up`, or one of these with the
    /// widths in which a descendant differs, `reference(mask=48,blocks8=2)`. `None` for any other name, and for widths
    /// or blocks of zero or beyond [`MOST_WIDTH`] and [`MOST_BLOCKS`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (base, changes) = match name.split_once('(') {
            Some((base, rest)) => (base, rest.strip_suffix(')')?),
            None => (name, ""),
        };
        let base = Self::all().into_iter().find(|preset| preset.name == base)?;
        let mut widths = base.widths();
        for change in changes.split(',').filter(|change| !change.is_empty()) {
            let (key, value) = change.split_once('=')?;
            widths[WIDTHS.iter().position(|known| *known == key)?] = value.parse().ok()?;
        }
        base.with_widths(widths).filter(|preset| preset.name == name)
    }

    fn all() -> [Self; 3] {
        [Self::reference(), Self::starter(), Self::close_up()]
    }

    /// This preset with other widths and blocks, in the order of [`WIDTHS`]; its name says which differ.
    ///
    /// `None` where one is zero or beyond [`MOST_WIDTH`] or [`MOST_BLOCKS`].
    #[must_use]
    pub fn with_widths(&self, widths: [usize; WIDTHS.len()]) -> Option<Self> {
        let most = |key: &str| if key.starts_with("blocks") { MOST_BLOCKS } else { MOST_WIDTH };
        if WIDTHS.iter().zip(widths).any(|(key, width)| width == 0 || width > most(key)) {
            return None;
        }
        let base = self.name.split('(').next().unwrap_or_default();
        let base = Self::all().into_iter().find(|preset| preset.name == base)?;
        let own = WIDTHS.iter().zip(widths).zip(base.widths());
        let changed: Vec<String> = own
            .filter(|((_, width), before)| width != before)
            .map(|((key, width), _)| format!("{key}={width}"))
            .collect();
        let list = if changed.is_empty() { String::new() } else { format!("({})", changed.join(",")) };
        let name = base.name.clone() + &list;
        let [
            stem,
            stage2,
            stage4,
            stage8,
            stage16,
            rise,
            merge8,
            proposal,
            first_full,
            second_full,
            mask,
            rest @ ..,
        ] = widths;
        let channels = Channels {
            stem,
            stage2,
            stage4,
            stage8,
            stage16,
            rise,
            merge8,
            proposal,
            first_full,
            second_full,
            mask,
        };
        let [stage2, stage4, stage8, stage16, merge8] = rest;
        let blocks = Blocks { stage2, stage4, stage8, stage16, merge8 };
        Some(Self { name, channels, blocks, ..base })
    }

    /// Widths and blocks in the order of [`WIDTHS`].
    #[must_use]
    pub fn widths(&self) -> [usize; WIDTHS.len()] {
        let (c, b) = (&self.channels, &self.blocks);
        [
            c.stem,
            c.stage2,
            c.stage4,
            c.stage8,
            c.stage16,
            c.rise,
            c.merge8,
            c.proposal,
            c.first_full,
            c.second_full,
            c.mask,
            b.stage2,
            b.stage4,
            b.stage8,
            b.stage16,
            b.merge8,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_anchors_run_bases_outermost() {
        let anchors = Preset::reference().anchors;
        assert_eq!(anchors[0], [7.0, 17.5, 17.5]);
        assert_eq!(anchors[4], [15.0, 37.5, 75.0]);
        assert_eq!(anchors[11], [50.0, 250.0, 125.0]);
    }

    #[test]
    fn a_preset_is_found_by_its_name() {
        assert_eq!(Preset::named("starter"), Some(Preset::starter()));
        assert_eq!(Preset::named("close-up"), Some(Preset::close_up()));
        assert_eq!(Preset::named("other"), None);
    }

    #[test]
    fn a_descendant_is_found_by_its_name() {
        let reference = Preset::reference();
        let mut widths = reference.widths();
        (widths[10], widths[13]) = (48, 2);
        let descendant = reference.with_widths(widths).unwrap();
        assert_eq!(descendant.name, "reference(mask=48,blocks8=2)");
        assert_eq!((descendant.channels.mask, descendant.blocks.stage8), (48, 2));
        assert_eq!(descendant.anchors, reference.anchors);
        assert_eq!(Preset::named(&descendant.name), Some(descendant.clone()));
        assert_eq!(descendant.with_widths(reference.widths()).unwrap().widths(), reference.widths());
        for bad in [
            "reference(mask=0)",
            "reference(mask=1025)",
            "reference(mask=64)",
            "reference(x=3)",
            "reference(",
        ] {
            assert_eq!(Preset::named(bad), None, "{bad}");
        }
    }
}

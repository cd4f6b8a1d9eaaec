//! How large organs are, and how much that varies.
//!
//! Two counts, of which only these numbers come here. A: 20 patients of Nikolov, Blackwell et al., "Clinically applicable
//! segmentation of head and neck anatomy for radiotherapy" (DeepMind and UCLH; J Med Internet Res 2021), drawings of the
//! oncologist, CC BY 4.0, github.com/google-deepmind/tcia-ct-scan-dataset. B: every third training patient of OpenKBP
//! (Babier et al. 2021, MIT licence), 57 patients.

use crate::vocabulary::organ::Organ;

/// What is known of an organ's size in patients.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size {
    /// Geometric mean volume, cm3, and the standard deviation of its logarithm.
    Volume(f64, f64),
    /// Mean sides of its box `(z, y, x)`, mm, and the standard deviation of the logarithm of its volume.
    Sides([f64; 3], f64),
    /// Nothing: the atlas's own, with a spread that fits most.
    Unknown,
}

/// The organ's size in patients. An organ whose box tells little of its shape goes by volume.
pub(super) fn size(organ: Organ) -> Size {
    match organ {
        // A; B has 23.2 with scans that cut it.
        Organ::BrainStem => Size::Volume(28.3, 0.11),
        Organ::EyeL | Organ::EyeR => Size::Volume(8.70, 0.10),
        Organ::LensL | Organ::LensR => Size::Volume(0.205, 0.20),
        Organ::OpticNerveL | Organ::OpticNerveR => Size::Volume(0.74, 0.24),
        Organ::SmgL | Organ::SmgR => Size::Volume(8.9, 0.30),
        // B, whose spread (0.59) is that of habits; the atlases' reach from hyoid to below the cricoid.
        Organ::Larynx => Size::Volume(22.7, 0.35),
        // Half way between A (61, 57, 39) and B (51, 43, 35): the atlases' parotids are thin plates.
        Organ::ParotidL | Organ::ParotidR => Size::Sides([56.0, 50.0, 36.8], 0.36),
        _ => Size::Unknown,
    }
}

/// Standard deviation of the logarithm of a volume that was not counted.
pub(super) const OTHER_DEVIATION: f64 = 0.25;

/// Mean cross-section of the cord, mm2, half way between A (80) and B (134), which often draws the canal; standard
/// deviation of its logarithm (A).
pub(super) const CORD_AREA: (f64, f64) = (103.0, 0.24);

/// Standard deviation of the logarithm of one side of an organ's box beside the change of its volume (A: 0.05 for eye
/// and brain stem, 0.15 for the glands).
pub(super) const SIDE_DEVIATION: f64 = 0.08;

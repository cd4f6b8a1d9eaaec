//! What differs from one synthetic patient to the next.

use serde::Deserialize;

/// What an atlas patient is varied by, beside a smooth random deformation, HU by tissue, blur and white noise, which
/// always are; docs/synthetic.md says by how much. All on unless a recipe's `synthetic` switches some off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Synthetic {
    /// Age and build: children to large adults, proportions of head, neck and shoulders.
    pub sizes: bool,
    /// Thickness of the fat under the skin.
    pub fat: bool,
    /// The neck bent, turned and tilted; shoulders up or down.
    pub pose: bool,
    /// The mandible turned about its joints.
    pub open_mouth: bool,
    /// Each organ's size, proportions and place as they vary between patients.
    pub organ_shapes: bool,
    /// Masses, fluid in airways and sinuses, lost teeth.
    pub disease: bool,
    /// Contrast agent, and texture of each tissue.
    pub contrast: bool,
    /// Slice thickness, kernel, noise by attenuation, calibration, clipping.
    pub scanner: bool,
    /// Bright teeth with streaks.
    pub dental_metal: bool,
    /// Mask, headrest, couch and bolus, as far as the body's outline lets them through.
    pub devices: bool,
    /// Scans that end early, and a field of view smaller than the patient.
    pub field_of_view: bool,
}

impl Synthetic {
    /// Nothing but what always varies.
    pub const NONE: Self = Self {
        sizes: false,
        fat: false,
        pose: false,
        open_mouth: false,
        organ_shapes: false,
        disease: false,
        contrast: false,
        scanner: false,
        dental_metal: false,
        devices: false,
        field_of_view: false,
    };

    /// Everything.
    pub const ALL: Self = Self {
        sizes: true,
        fat: true,
        pose: true,
        open_mouth: true,
        organ_shapes: true,
        disease: true,
        contrast: true,
        scanner: true,
        dental_metal: true,
        devices: true,
        field_of_view: true,
    };
}

impl Default for Synthetic {
    fn default() -> Self {
        Self::ALL
    }
}

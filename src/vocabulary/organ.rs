//! The 28 organs at risk, in the network's class order.

/// One of the 28 head-and-neck organs at risk of Tang et al. 2019.
///
/// Class numbers run 1..=28 in this order; class 0 is background. L and R are the patient's sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Organ {
    /// Brachial plexus.
    BrachialPlexus = 1,
    /// Brain stem.
    BrainStem = 2,
    /// Constrictor naris.
    ConstrictorNaris = 3,
    /// Ear L.
    EarL = 4,
    /// Ear R.
    EarR = 5,
    /// Eye L.
    EyeL = 6,
    /// Eye R.
    EyeR = 7,
    /// Hypophysis.
    Hypophysis = 8,
    /// Larynx.
    Larynx = 9,
    /// Lens L.
    LensL = 10,
    /// Lens R.
    LensR = 11,
    /// Mandible.
    Mandible = 12,
    /// Optic chiasm.
    OpticChiasm = 13,
    /// Optic nerve L.
    OpticNerveL = 14,
    /// Optic nerve R.
    OpticNerveR = 15,
    /// Oral cavity.
    OralCavity = 16,
    /// Parotid L.
    ParotidL = 17,
    /// Parotid R.
    ParotidR = 18,
    /// SMG L.
    SmgL = 19,
    /// SMG R.
    SmgR = 20,
    /// Spinal cord.
    SpinalCord = 21,
    /// Sublingual gland.
    SublingualGland = 22,
    /// Temporal lobe L.
    TemporalLobeL = 23,
    /// Temporal lobe R.
    TemporalLobeR = 24,
    /// Thyroid.
    Thyroid = 25,
    /// TMJ L.
    TmjL = 26,
    /// TMJ R.
    TmjR = 27,
    /// Trachea.
    Trachea = 28,
}

impl Organ {
    /// How many there are.
    pub const COUNT: usize = 28;

    /// All organs in class order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::BrachialPlexus,
        Self::BrainStem,
        Self::ConstrictorNaris,
        Self::EarL,
        Self::EarR,
        Self::EyeL,
        Self::EyeR,
        Self::Hypophysis,
        Self::Larynx,
        Self::LensL,
        Self::LensR,
        Self::Mandible,
        Self::OpticChiasm,
        Self::OpticNerveL,
        Self::OpticNerveR,
        Self::OralCavity,
        Self::ParotidL,
        Self::ParotidR,
        Self::SmgL,
        Self::SmgR,
        Self::SpinalCord,
        Self::SublingualGland,
        Self::TemporalLobeL,
        Self::TemporalLobeR,
        Self::Thyroid,
        Self::TmjL,
        Self::TmjR,
        Self::Trachea,
    ];

    /// The class number, 1..=28.
    #[must_use]
    pub fn class(self) -> usize {
        usize::from(self as u8)
    }

    /// The place in [`Organ::ALL`], 0..28.
    #[must_use]
    pub fn index(self) -> usize {
        self.class() - 1
    }

    /// The organ of a class number, `None` for background and beyond.
    #[must_use]
    pub fn from_class(class: usize) -> Option<Self> {
        Self::ALL.get(class.checked_sub(1)?).copied()
    }

    /// The name in settings and index files, such as `ParotidL`.
    #[must_use]
    pub fn key(self) -> String {
        format!("{self:?}")
    }

    /// The organ of a [`Organ::key`].
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|organ| organ.key() == key)
    }

    /// The same organ on the other side, `None` where there is one organ or one class for both sides.
    #[must_use]
    pub fn partner(self) -> Option<Self> {
        match self {
            Self::EarL => Some(Self::EarR),
            Self::EarR => Some(Self::EarL),
            Self::EyeL => Some(Self::EyeR),
            Self::EyeR => Some(Self::EyeL),
            Self::LensL => Some(Self::LensR),
            Self::LensR => Some(Self::LensL),
            Self::OpticNerveL => Some(Self::OpticNerveR),
            Self::OpticNerveR => Some(Self::OpticNerveL),
            Self::ParotidL => Some(Self::ParotidR),
            Self::ParotidR => Some(Self::ParotidL),
            Self::SmgL => Some(Self::SmgR),
            Self::SmgR => Some(Self::SmgL),
            Self::TemporalLobeL => Some(Self::TemporalLobeR),
            Self::TemporalLobeR => Some(Self::TemporalLobeL),
            Self::TmjL => Some(Self::TmjR),
            Self::TmjR => Some(Self::TmjL),
            _ => None,
        }
    }

    /// The organ after the patient is mirrored left to right: the partner, or itself.
    #[must_use]
    pub fn mirrored(self) -> Self {
        self.partner().unwrap_or(self)
    }

    /// Lowest and highest volume of grown patients, cm3; `None` where no source tells.
    ///
    /// Source: volumes that public structure sets hold and the literature names, widened; they find blunders, not illness.
    #[must_use]
    pub fn volume_range_cm3(self) -> Option<(f64, f64)> {
        Some(match self {
            Self::BrachialPlexus | Self::SpinalCord => (5.0, 60.0),
            Self::BrainStem => (12.0, 45.0),
            Self::EyeL | Self::EyeR => (4.0, 13.0),
            Self::Hypophysis | Self::OpticChiasm => (0.1, 1.8),
            Self::Larynx => (12.0, 80.0),
            Self::LensL | Self::LensR => (0.05, 0.9),
            Self::Mandible => (30.0, 130.0),
            Self::OpticNerveL | Self::OpticNerveR => (0.2, 2.2),
            Self::OralCavity => (40.0, 220.0),
            Self::ParotidL | Self::ParotidR => (8.0, 75.0),
            Self::SmgL | Self::SmgR => (2.0, 20.0),
            Self::Thyroid => (4.0, 60.0),
            Self::TmjL | Self::TmjR => (0.4, 7.0),
            Self::Trachea => (5.0, 70.0),
            Self::ConstrictorNaris
            | Self::EarL
            | Self::EarR
            | Self::SublingualGland
            | Self::TemporalLobeL
            | Self::TemporalLobeR => return None,
        })
    }

    /// The name in the paper, for reports and progress; ROI names come from the structure template.
    #[must_use]
    pub fn paper_name(self) -> &'static str {
        match self {
            Self::BrachialPlexus => "Brachial plexus",
            Self::BrainStem => "Brain stem",
            Self::ConstrictorNaris => "Constrictor naris",
            Self::EarL => "Ear L",
            Self::EarR => "Ear R",
            Self::EyeL => "Eye L",
            Self::EyeR => "Eye R",
            Self::Hypophysis => "Hypophysis",
            Self::Larynx => "Larynx",
            Self::LensL => "Lens L",
            Self::LensR => "Lens R",
            Self::Mandible => "Mandible",
            Self::OpticChiasm => "Optic chiasm",
            Self::OpticNerveL => "Optic nerve L",
            Self::OpticNerveR => "Optic nerve R",
            Self::OralCavity => "Oral cavity",
            Self::ParotidL => "Parotid L",
            Self::ParotidR => "Parotid R",
            Self::SmgL => "SMG L",
            Self::SmgR => "SMG R",
            Self::SpinalCord => "Spinal cord",
            Self::SublingualGland => "Sublingual gland",
            Self::TemporalLobeL => "Temporal lobe L",
            Self::TemporalLobeR => "Temporal lobe R",
            Self::Thyroid => "Thyroid",
            Self::TmjL => "TMJ L",
            Self::TmjR => "TMJ R",
            Self::Trachea => "Trachea",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_paper_and_partners_are_mutual() {
        for (index, organ) in Organ::ALL.into_iter().enumerate() {
            assert_eq!((organ.index(), Organ::from_class(index + 1)), (index, Some(organ)));
            if let Some(partner) = organ.partner() {
                assert_eq!(partner.partner(), Some(organ));
                assert_ne!(partner, organ);
            }
        }
        assert_eq!(Organ::from_class(0), None);
        assert_eq!(Organ::from_class(29), None);
        assert_eq!(Organ::ALL.iter().filter(|o| o.partner().is_some()).count(), 16);
    }
}

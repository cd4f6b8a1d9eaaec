//! Sets of organs, one bit each.

use crate::vocabulary::organ::Organ;

/// A set of organs; bit `Organ::index()` stands for the organ, so a voxel of a mask volume is a set too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrganSet(u32);

impl OrganSet {
    /// No organ.
    pub const EMPTY: Self = Self(0);
    /// All 28 organs.
    pub const ALL: Self = Self((1 << Organ::COUNT) - 1);

    /// The set with these bits; bits beyond the 28 organs are dropped.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The set of one organ.
    #[must_use]
    pub fn of(organ: Organ) -> Self {
        Self(1 << organ.index())
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether the organ is in the set.
    #[must_use]
    pub fn contains(self, organ: Organ) -> bool {
        self.0 & (1 << organ.index()) != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All organs but these.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    /// The set less one organ.
    #[must_use]
    pub fn without(self, organ: Organ) -> Self {
        Self(self.0 & !Self::of(organ).0)
    }

    /// What both sets hold.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The organs in class order.
    pub fn iter(self) -> impl Iterator<Item = Organ> {
        Organ::ALL.into_iter().filter(move |organ| self.contains(*organ))
    }

    /// The set after the patient is mirrored left to right.
    #[must_use]
    pub fn mirrored(self) -> Self {
        self.iter().fold(Self::EMPTY, |set, organ| set.union(Self::of(organ.mirrored())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_swaps_partners_and_keeps_single_organs() {
        let set = OrganSet::of(Organ::ParotidL).union(OrganSet::of(Organ::Larynx));
        let mirrored = OrganSet::of(Organ::ParotidR).union(OrganSet::of(Organ::Larynx));
        assert_eq!(set.mirrored(), mirrored);
        assert_eq!(OrganSet::ALL.mirrored(), OrganSet::ALL);
        assert_eq!(OrganSet::ALL.iter().count(), 28);
        assert_eq!(OrganSet::from_bits(u32::MAX), OrganSet::ALL);
    }
}

//! What a rule did or noticed, in words that fit a structure set.

use std::fmt;

use crate::vocabulary::organ::Organ;

/// Where a scan ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScanEnd {
    /// The uppermost plane.
    Superior,
    /// The lowest plane.
    Inferior,
    /// An edge of the planes.
    Edge,
    /// The part of a long scan that the network looked at.
    Window,
}

/// What a rule did to an organ, or noticed about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Left and right were exchanged: both lay wholly on the other side.
    SidesExchanged,
    /// The organ was removed: it lay on the other side.
    WrongSide {
        /// What was removed, cm3.
        cm3: f64,
    },
    /// The part beyond the midsagittal plane was removed.
    BeyondMidplane {
        /// What was removed, cm3.
        cm3: f64,
    },
    /// Smaller pieces were removed.
    PiecesRemoved {
        /// How many.
        n: usize,
        /// Together, cm3.
        cm3: f64,
    },
    /// The organ is in pieces above one another; all were kept.
    Interrupted {
        /// How many pieces.
        n: usize,
    },
    /// Brain stem below, or cord above their common border was given to the other.
    BorderSet {
        /// What changed its owner, cm3.
        cm3: f64,
    },
    /// Brain stem and cord lie beside each other over so long a way that no border was set.
    BorderUnclear {
        /// How long, mm.
        mm: f64,
    },
    /// Voxels were claimed by another organ with more probability and were given to it.
    Shared {
        /// Which organ has them now.
        with: Organ,
        /// How much, cm3.
        cm3: f64,
    },
    /// The organ ends where the scan ends.
    Truncated {
        /// Where.
        at: ScanEnd,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SidesExchanged => write!(f, "left and right were exchanged"),
            Self::WrongSide { cm3 } => write!(f, "removed, {cm3:.1} cm3 lay on the other side"),
            Self::BeyondMidplane { cm3 } => write!(f, "{cm3:.1} cm3 on the other side removed"),
            Self::PiecesRemoved { n: 1, cm3 } => write!(f, "a loose piece of {cm3:.1} cm3 removed"),
            Self::PiecesRemoved { n, cm3 } => write!(f, "{n} loose pieces of {cm3:.1} cm3 removed"),
            Self::Interrupted { n } => write!(f, "interrupted, {n} pieces"),
            Self::BorderSet { cm3 } => write!(f, "border of brain stem and cord set, {cm3:.1} cm3 moved"),
            Self::BorderUnclear { mm } => {
                write!(f, "brain stem and cord lie beside each other over {mm:.0} mm")
            }
            Self::Shared { with, cm3 } => write!(f, "{cm3:.1} cm3 given to {}", with.paper_name()),
            Self::Truncated { at } => f.write_str(match at {
                ScanEnd::Superior => "cut by the upper end of the scan",
                ScanEnd::Inferior => "cut by the lower end of the scan",
                ScanEnd::Edge => "cut by the edge of the images",
                ScanEnd::Window => "cut by the part of the scan that was looked at",
            }),
        }
    }
}

//! What is wrong with a case that cannot be imported.

use std::path::PathBuf;

use crate::convert::ConvertError;
use crate::learning::dataset::DatasetError;
use crate::pipeline::rtstruct::RtstructError;
use crate::pipeline::series::SeriesError;
use crate::pipeline::volume::VolumeError;
use crate::vocabulary::space::InvalidGrid;

/// Why a case, or an organ of it, is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The CT series is refused.
    #[error("its CT cannot be used")]
    Series(#[source] SeriesError),
    /// The pixels are refused.
    #[error("its CT cannot be decoded")]
    Volume(#[source] VolumeError),
    /// The structure set cannot be read.
    #[error("its structure set cannot be used")]
    StructureSet(#[source] RtstructError),
    /// An image or mask file cannot be read.
    #[error("a file of it cannot be used")]
    File(#[source] ConvertError),
    /// A case of the OpenKBP layout cannot be read.
    #[error("a file of it cannot be used")]
    OpenKbp(#[source] DatasetError),
    /// Axes that make no grid.
    #[error("its voxels lie on no regular grid: write the image with axes at right angles")]
    NoGrid {
        /// What is wrong.
        #[source]
        source: InvalidGrid,
    },
    /// Too many voxels.
    #[error("upright it would have {shape:?} voxels (z, y, x), at most 2^30 are taken: crop it")]
    TooLarge {
        /// Shape asked for.
        shape: [usize; 3],
    },
    /// An image without air.
    #[error(
        "its lowest value is {lowest}, and a CT holds air below -200 HU: the values are no Hounsfield units; apply slope and intercept first"
    )]
    NotHounsfield {
        /// Lowest value.
        lowest: i16,
    },
    /// A structure set that belongs to another frame of reference.
    #[error(
        "the structure set {} is of another frame of reference than its CT: the contours cannot be placed on it; export both together",
        path.display()
    )]
    OtherFrame {
        /// Which structure set.
        path: PathBuf,
    },
    /// A structure set without its CT.
    #[error("the CT of the structure set {} is not in the folder: export both together", path.display())]
    NoImage {
        /// Which structure set.
        path: PathBuf,
    },
    /// A structure set that could belong to several series.
    #[error(
        "the structure set {} names no series, and {n_series} series have its frame of reference: leave one of them in the folder",
        path.display()
    )]
    SeveralImages {
        /// Which structure set.
        path: PathBuf,
        /// Series that fit.
        n_series: usize,
    },
    /// Several structure sets for one CT.
    #[error(
        "{} structure sets belong to one CT, with the labels {}: choose with --label",
        labels.len(),
        labels.join(", ")
    )]
    SeveralStructureSets {
        /// Structure Set Label of each.
        labels: Vec<String>,
    },
    /// A file in the folder of the series that cannot be read, so that a slice may lack.
    #[error("{} is damaged, so a slice may be missing: copy the series again ({why})", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No organ of ours.
    #[error("none of its structures is one of the 28 organs by the map or the structure template: {found}")]
    NothingMapped {
        /// Names there.
        found: String,
    },
    /// Two structures for one organ.
    #[error(
        "{} are all {organ}: join them in the map (joins), or let it ignore all but one",
        names.join(" and ")
    )]
    TwoForOne {
        /// Which organ.
        organ: String,
        /// The structures.
        names: Vec<String>,
    },
    /// An organ without anything drawn.
    #[error("{name} ({organ}) is empty: {why}")]
    EmptyOrgan {
        /// Name of the structure.
        name: String,
        /// Which organ.
        organ: String,
        /// What was found.
        why: &'static str,
    },
    /// An organ that lies nowhere in the image.
    #[error("{name} ({organ}) lies outside the image")]
    OutsideImage {
        /// Name of the structure.
        name: String,
        /// Which organ.
        organ: String,
    },
    /// A pair that is one piece.
    #[error(
        "{name} is to be a left and a right organ, but there is no gap between two parts of it: draw both apart, or let the map ignore it"
    )]
    NoGap {
        /// Name of the structure.
        name: String,
    },
    /// Another case of that name.
    #[error("another case of the data set is called {id}: rename its folder")]
    SameId {
        /// The name.
        id: String,
    },
    /// It cannot be written.
    #[error("it cannot be written")]
    Store(#[source] crate::learning::dataset::StoreError),
    /// Already in the data set.
    #[error("the same image is in the data set already, as {id}: nothing was changed")]
    Known {
        /// Which case.
        id: String,
    },
}

impl Fault {
    /// Whether the case can be taken without the organ that is faulty.
    #[must_use]
    pub fn is_of_an_organ(&self) -> bool {
        matches!(
            self,
            Self::TwoForOne { .. } | Self::EmptyOrgan { .. } | Self::OutsideImage { .. } | Self::NoGap { .. }
        )
    }
}

//! Why no volume came out.

use std::path::PathBuf;

use crate::vocabulary::dicom::attribute::AttributeError;
use crate::vocabulary::dicom::instance::InstanceError;

/// Why a series did not become Hounsfield units.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Nothing of a patient's size.
    #[error(
        "no patient was found in the image: nothing of 0.2 litre or more is denser than -400 HU; is it a phantom scan or an empty couch?"
    )]
    NoBody,
    /// Larger than any patient.
    #[error("the image covers {n_voxels} voxels of 4 mm, more than any patient: its spacing must be wrong")]
    TooWide {
        /// Voxels of 4 mm.
        n_voxels: usize,
    },
    /// An instance cannot be read.
    #[error("the instance {} cannot be read", path.display())]
    Instance {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<InstanceError>,
    },
    /// The pixels of an instance cannot be turned into Hounsfield units.
    #[error("the pixels of {} cannot be read as HU", path.display())]
    Pixels {
        /// Where it lies.
        path: PathBuf,
        /// Why.
        #[source]
        source: PixelError,
    },
    /// The slice no longer fits the series.
    #[error("{} has {found:?} rows x columns where the series has {wanted:?}: it was changed since it was listed", path.display())]
    Changed {
        /// Where it lies.
        path: PathBuf,
        /// Its rows and columns.
        found: [usize; 2],
        /// Those of the grid.
        wanted: [usize; 2],
    },
    /// More voxels than fit.
    #[error(
        "a volume of {n_voxels} voxels is larger than the limit of {most}: send the region that is needed"
    )]
    TooLarge {
        /// Voxels of the series.
        n_voxels: u64,
        /// The limit.
        most: u64,
    },
    /// The values are no Hounsfield units.
    #[error(
        "values cannot be HU: the lowest is {lowest}, and without air below {air} there is no patient in air: Rescale Intercept (0028,1052) or Slope (0028,1053) are wrong or missing"
    )]
    NotHounsfield {
        /// Lowest value of the volume.
        lowest: i16,
        /// What air is below, HU.
        air: i16,
    },
}

/// Why the pixels of an instance were not decoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PixelError {
    /// An attribute is missing or unusable.
    #[error("an attribute of the pixel module is missing or unusable")]
    Attribute {
        /// Which.
        #[source]
        source: AttributeError,
    },
    /// The attributes of the instance cannot be read.
    #[error("the data set cannot be read: {why}")]
    DataSet {
        /// What the reader says.
        why: String,
    },
    /// There is no Pixel Data.
    #[error("Pixel Data (7FE0,0010) is missing")]
    NoPixelData,
    /// Rows or Columns out of bounds.
    #[error("{rows} rows x {columns} columns; 1 to {largest} on each side are accepted")]
    Size {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Largest side.
        largest: u16,
    },
    /// A form of pixel that is no CT.
    #[error("{attribute} is {found}; a CT that holds HU has {wanted}")]
    Form {
        /// Keyword and tag.
        attribute: &'static str,
        /// What is there.
        found: String,
        /// What is accepted.
        wanted: &'static str,
    },
    /// Fewer bytes than pixels.
    #[error("Pixel Data holds {found} bytes where frame {frame} ends at {wanted}: the instance is cut short")]
    TooShort {
        /// Frame, from 1.
        frame: usize,
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        wanted: u64,
    },
    /// Fragments that cannot be assigned to frames.
    #[error(
        "{n_fragments} fragments for {n_frames} frames and no usable offset table: frame {frame} cannot be found"
    )]
    Fragments {
        /// Fragments there.
        n_fragments: usize,
        /// Number of Frames (0028,0008).
        n_frames: usize,
        /// Frame, from 1.
        frame: usize,
    },
    /// A transfer syntax that is not decoded.
    #[error("transfer syntax {name} ({uid}) is not decoded: {why}")]
    TransferSyntax {
        /// Transfer Syntax UID.
        uid: String,
        /// Its name.
        name: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
    /// The compressed stream is of another size than the instance says.
    #[error("the compressed stream holds {found}, the attributes say {wanted}: the instance is damaged")]
    StreamDiffers {
        /// Size in the stream.
        found: String,
        /// Size by the attributes.
        wanted: String,
    },
    /// The compressed stream is damaged.
    #[error("the {codec} stream is damaged: {why}")]
    Stream {
        /// Name of the compression.
        codec: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// The decoder gave up without an answer.
    #[error("the {codec} decoder gave up: the stream is damaged")]
    Panicked {
        /// Name of the compression.
        codec: &'static str,
    },
}

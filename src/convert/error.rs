//! What can go wrong with masks.

use std::path::PathBuf;

/// Why masks could not be read, placed or written.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file or folder that cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder that cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A header that says something we do not take.
    #[error("{}: {wanted}, found {found}", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// What was wanted.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// A value that is no label.
    #[error("{}: a mask holds whole numbers from 0 to 65535, found {found}", path.display())]
    Label {
        /// Which file.
        path: PathBuf,
        /// The value.
        found: f64,
    },
    /// An image with NaN or infinity in it.
    #[error("{}: a voxel is NaN or infinite, an image holds Hounsfield units: write the image again", path.display())]
    NotANumber {
        /// Which file.
        path: PathBuf,
    },
    /// The grid is not the CT's.
    #[error(
        "{} does not lie on the voxels of the CT ({detail}): resample it to the CT (nearest neighbour) first",
        path.display()
    )]
    OtherGrid {
        /// Which file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// Nothing to convert.
    #[error("no masks in {}: wanted files ending in .nii, .nii.gz, .nrrd or .mha", path.display())]
    Nothing {
        /// Where.
        path: PathBuf,
    },
    /// ROIs that a label map cannot hold.
    #[error(
        "{first:?} and {second:?} overlap, a label map holds one ROI per voxel: write to a folder (-o DIR/)"
    )]
    Overlap {
        /// One ROI.
        first: String,
        /// The other.
        second: String,
    },
}

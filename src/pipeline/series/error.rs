//! Why no series came out.

use std::fmt;
use std::path::PathBuf;

use crate::vocabulary::dicom::attribute::AttributeError;
use crate::vocabulary::dicom::instance::InstanceError;
use crate::vocabulary::space::InvalidGrid;

/// Why a folder or a set of instances is no usable CT series.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The folder could not be listed.
    #[error("could not list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More files than a series ever has.
    #[error("{} holds more than {most} files: name the folder of one series", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The limit.
        most: usize,
    },
    /// A DICOM instance that cannot be read: a series without it may lack a slice.
    #[error("the instance {} cannot be read", path.display())]
    Instance {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<InstanceError>,
    },
    /// No CT image among the files.
    #[error("no CT series among {n_files} files{}", Listed(aside))]
    NoCtSeries {
        /// Files looked at.
        n_files: usize,
        /// Why each was put aside.
        aside: Vec<Aside>,
    },
    /// More than one.
    #[error("{} CT series where one was expected; choose one by its Series Instance UID{}", found.len(), Listed(found))]
    SeveralSeries {
        /// Series Instance UID and number of instances of each.
        found: Vec<SeriesSummary>,
    },
    /// The one that was asked for is not there.
    #[error("no CT series {wanted} among {n_files} files")]
    NotFound {
        /// Series Instance UID asked for.
        wanted: String,
        /// Files looked at.
        n_files: usize,
    },
    /// The series is there, but contours on it could be wrong.
    #[error("the CT series {} is refused: {}", series.as_str(), Joined(causes))]
    Refused {
        /// Series Instance UID, as text since it may be what is wrong.
        series: String,
        /// All that is wrong with it.
        causes: Vec<Cause>,
    },
}

/// One thing that is wrong with a series.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Cause {
    /// An attribute is missing or unusable.
    #[error("{error}{}; the sender must supply it", AndMore(*n_more))]
    Attribute {
        /// The first one met.
        error: AttributeError,
        /// In how many more slices.
        n_more: usize,
    },
    /// An enhanced object that is no plain CT.
    #[error("enhanced CT multi-frame, not an original CT (Image Type {image_type:?}) in {instance}")]
    NotOriginal {
        /// Image Type (0008,0008).
        image_type: String,
        /// The instance.
        instance: String,
    },
    /// Slices of different patients.
    #[error(
        "the slices name different patients (Patient ID, name or birth date), first in {instance}: send each patient's series apart"
    )]
    TwoPatients {
        /// The first slice that differs.
        instance: String,
    },
    /// One series in several studies.
    #[error("the slices lie in different studies, first in {instance}: a series belongs to one study")]
    TwoStudies {
        /// The first slice that differs.
        instance: String,
    },
    /// Slices of different frames of reference.
    #[error(
        "the slices have {count} different Frames of Reference (0020,0052), first in {instance}: their positions cannot be compared"
    )]
    FramesOfReference {
        /// How many.
        count: usize,
        /// The first slice that differs.
        instance: String,
    },
    /// Slices of different size.
    #[error("{instance} has {found} rows x columns, the others {wanted}: the slices do not make one volume")]
    Matrix {
        /// The slice.
        instance: String,
        /// Its rows x columns.
        found: String,
        /// Those of the first slice.
        wanted: String,
    },
    /// Slices of different pixel spacing.
    #[error(
        "{instance} has Pixel Spacing {found} mm, the others {wanted} mm: the slices do not make one volume"
    )]
    PixelSpacing {
        /// The slice.
        instance: String,
        /// Its spacing.
        found: String,
        /// That of the first slice.
        wanted: String,
    },
    /// Slices that are not parallel.
    #[error("{instance} is turned by {degrees:.2} degrees against the others: the slices are not parallel")]
    Orientation {
        /// The slice.
        instance: String,
        /// Angle, degrees.
        degrees: f64,
    },
    /// The stack of slices leans.
    #[error("gantry tilt {degrees:.1} degrees: the stack of slices is sheared, each slice shifted against the one below; contours on it would be displaced{}", Tag(*tilt_degrees))]
    Sheared {
        /// Angle between the stack and the normal of its slices, degrees.
        degrees: f64,
        /// Gantry/Detector Tilt (0018,1120), where given.
        tilt_degrees: Option<f64>,
    },
    /// One slice shifted against the stack.
    #[error("{instance} is shifted by {offset_mm:.2} mm within its plane against the stack of slices")]
    Displaced {
        /// The slice.
        instance: String,
        /// How far, mm.
        offset_mm: f64,
    },
    /// Two slices at one place.
    #[error(
        "{first} and {second} lie at the same position, {position_mm:.2} mm along the normal: remove one of the two"
    )]
    DuplicatePosition {
        /// One slice.
        first: String,
        /// The other.
        second: String,
        /// Distance of both along the normal, mm.
        position_mm: f64,
    },
    /// Two different instances with one UID.
    #[error(
        "{first} and {second} have the same SOP Instance UID but differ: one of them is not what it says"
    )]
    DuplicateUid {
        /// One instance.
        first: String,
        /// The other.
        second: String,
    },
    /// A gap that is a multiple of the usual distance.
    #[error(
        "missing slices: the slices at {below_mm:.2} and {above_mm:.2} mm lie {gap_mm:.2} mm apart, the others {spacing_mm:.2} mm, {n_missing:.0} missing in all: send the whole series again"
    )]
    MissingSlices {
        /// Slice below the first gap, mm along the normal.
        below_mm: f64,
        /// Slice above it.
        above_mm: f64,
        /// Their distance.
        gap_mm: f64,
        /// The usual distance.
        spacing_mm: f64,
        /// How many are missing in all gaps.
        n_missing: f64,
    },
    /// Distances that are not all the same.
    #[error(
        "uneven slice distances ({smallest_mm:.2} to {largest_mm:.2} mm), furthest off at {worst}: no regular grid fits"
    )]
    UnevenDistances {
        /// Smallest distance along the normal, mm.
        smallest_mm: f64,
        /// Largest one.
        largest_mm: f64,
        /// The slice that is furthest from a regular grid.
        worst: String,
    },
    /// Not enough slices.
    #[error("only {found} {} ({extent_mm:.1} mm): at least {wanted} are needed for a volume", if *found == 1 { "slice" } else { "slices" })]
    TooFewSlices {
        /// Slices that are there.
        found: usize,
        /// Slices that are needed.
        wanted: usize,
        /// Distance between the first and the last, mm.
        extent_mm: f64,
    },
    /// A matrix too small or too large.
    #[error("matrix of {rows} rows x {columns} columns: {smallest} to {largest} on each side are accepted")]
    MatrixSize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Smallest side.
        smallest: u16,
        /// Largest side.
        largest: u16,
    },
    /// Directions or spacing that make no grid.
    #[error("orientation or spacing are unusable: {source}")]
    Grid {
        /// What is wrong.
        source: InvalidGrid,
    },
}

/// A file that is no slice of a CT, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The file.
    pub path: PathBuf,
    /// Why it was left out.
    pub reason: AsideReason,
}

/// Why a file is no slice of a CT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AsideReason {
    /// Not DICOM.
    #[error("not a DICOM file")]
    NotDicom,
    /// DICOM, but no image that we read.
    #[error("modality {modality}, not a CT image")]
    OtherModality {
        /// Modality (0008,0060), or "none".
        modality: String,
    },
    /// A scout.
    #[error("localizer")]
    Localizer,
    /// A projection or a rendering.
    #[error("rendered or projected image ({image_type})")]
    Rendered {
        /// The value of Image Type that says so.
        image_type: String,
    },
}

/// A series among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesSummary {
    /// Series Instance UID, as text since it may be empty.
    pub series_instance_uid: String,
    /// Instances of it.
    pub n_instances: usize,
}

impl fmt::Display for SeriesSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} instances)", self.series_instance_uid, self.n_instances)
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// At most this many of a list stand in a message.
const MOST_LISTED: usize = 5;

struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, item) in self.0.iter().take(MOST_LISTED).enumerate() {
            write!(f, "{}{item}", if idx == 0 { ": " } else { ", " })?;
        }
        match self.0.len().saturating_sub(MOST_LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Joined<'a>(&'a [Cause]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, cause) in self.0.iter().enumerate() {
            write!(f, "{}{cause}", if idx == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

struct AndMore(usize);

impl fmt::Display for AndMore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " and {} more", self.0) }
    }
}

struct Tag(Option<f64>);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(degrees) => write!(f, " (Gantry/Detector Tilt (0018,1120) says {degrees:+.1})"),
            None => Ok(()),
        }
    }
}

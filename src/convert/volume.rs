//! A file of voxels, labels or an image, and where they lie.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::Array3;

use super::error::ConvertError;
use super::{nifti_file, nrrd_file};
use crate::vocabulary::space::{PatientPoint, PatientVector};

/// Most voxels of one file: 2 GB of labels.
const MOST_VOXELS: usize = 1 << 30;

/// Most voxels that room is made for before they are read.
const MOST_AHEAD: usize = 1 << 26;

/// Voxels of one file.
#[derive(Debug, Clone)]
pub(crate) struct Volume<V> {
    pub(crate) path: PathBuf,
    /// Axes slowest first `(k, j, i)` as in the file.
    pub(crate) voxels: Array3<V>,
    pub(crate) geometry: Geometry,
    /// Names of labels where the file has them.
    pub(crate) names: BTreeMap<u16, String>,
}

/// Labels of one file, 0 is background.
pub(crate) type LabelVolume = Volume<u16>;

/// What a voxel of a file can be read as.
pub(crate) trait Voxel: Copy {
    /// A stored value after slope and intercept.
    fn of_value(value: f64, path: &Path) -> Result<Self, ConvertError>;

    /// Appends voxels that are stored as they are; `false` where each needs [`Voxel::of_value`].
    fn append_plain(bytes: &[u8], storage: Storage, into: &mut Vec<Self>) -> bool;
}

impl Voxel for u16 {
    /// As label: rounded, so that a probability of one half is inside.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0..=65535")]
    fn of_value(value: f64, path: &Path) -> Result<Self, ConvertError> {
        let rounded = value.round();
        if (0.0..=65535.0).contains(&rounded) {
            Ok(rounded as Self)
        } else {
            Err(ConvertError::Label { path: path.to_owned(), found: value })
        }
    }

    fn append_plain(bytes: &[u8], storage: Storage, into: &mut Vec<Self>) -> bool {
        let plain = storage.kind == Kind::U8 && storage.is_unscaled();
        if plain {
            into.extend(bytes.iter().map(|byte| Self::from(*byte)));
        }
        plain
    }
}

impl Voxel for i16 {
    /// As Hounsfield units: rounded, and cut to 16 bits.
    #[expect(clippy::cast_possible_truncation, reason = "cut to 16 bits on the line")]
    fn of_value(value: f64, path: &Path) -> Result<Self, ConvertError> {
        if value.is_finite() {
            Ok(value.round().clamp(f64::from(Self::MIN), f64::from(Self::MAX)) as Self)
        } else {
            Err(ConvertError::NotANumber { path: path.to_owned() })
        }
    }

    fn append_plain(bytes: &[u8], storage: Storage, into: &mut Vec<Self>) -> bool {
        let plain = storage.kind == Kind::I16 && storage.is_unscaled() && !storage.big_endian;
        if plain {
            into.extend(bytes.as_chunks::<2>().0.iter().map(|two| Self::from_le_bytes(*two)));
        }
        plain
    }
}

impl Voxel for u32 {
    /// As a set of bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0..=2^32 - 1")]
    fn of_value(value: f64, path: &Path) -> Result<Self, ConvertError> {
        if (0.0..=4_294_967_295.0).contains(&value) && value.fract() <= 0.0 {
            Ok(value as Self)
        } else {
            Err(ConvertError::Label { path: path.to_owned(), found: value })
        }
    }

    fn append_plain(bytes: &[u8], storage: Storage, into: &mut Vec<Self>) -> bool {
        let plain = storage.kind == Kind::U32 && storage.is_unscaled() && !storage.big_endian;
        if plain {
            into.extend(bytes.as_chunks::<4>().0.iter().map(|four| Self::from_le_bytes(*four)));
        }
        plain
    }
}

/// Where the voxels of a file lie: LPS mm, centre of the first voxel and the step along each axis, fastest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) origin: PatientPoint,
    pub(crate) steps: [PatientVector; 3],
}

/// How the voxels of a file are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    pub(crate) kind: Kind,
    pub(crate) big_endian: bool,
    pub(crate) slope: f64,
    pub(crate) intercept: f64,
}

impl Storage {
    fn is_unscaled(&self) -> bool {
        (self.slope, self.intercept) == (1.0, 0.0)
    }
}

/// Number format of a voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a label beyond 2^53 is refused anyway")]
    fn value(self, bytes: &[u8], big_endian: bool) -> f64 {
        let mut b = [0_u8; 8];
        b[..bytes.len()].copy_from_slice(bytes);
        if big_endian {
            b[..bytes.len()].reverse();
        }
        match self {
            Self::U8 => f64::from(b[0]),
            Self::I8 => f64::from(i8::from_le_bytes([b[0]])),
            Self::U16 => f64::from(u16::from_le_bytes([b[0], b[1]])),
            Self::I16 => f64::from(i16::from_le_bytes([b[0], b[1]])),
            Self::U32 => f64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::U64 => u64::from_le_bytes(b) as f64,
            Self::I64 => i64::from_le_bytes(b) as f64,
            Self::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F64 => f64::from_le_bytes(b),
        }
    }
}

/// Reads NIfTI, NRRD or MHA by the ending of the name.
///
/// # Errors
/// [`ConvertError`]: unreadable, cut short, a header we do not take, a value that is no label.
pub(crate) fn read_volume<V: Voxel>(path: &Path) -> Result<Volume<V>, ConvertError> {
    let failed = |source| ConvertError::Read { path: path.to_owned(), source };
    let file = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    match ending(&name) {
        Some(".nii.gz") => nifti_file::read(flate2::bufread::MultiGzDecoder::new(file), path),
        Some(".nii") => nifti_file::read(file, path),
        Some(".nrrd") => nrrd_file::read_nrrd(file, path),
        Some(".mha") => nrrd_file::read_mha(file, path),
        _ => Err(ConvertError::Nothing { path: path.to_owned() }),
    }
}

/// The ending of a mask file's name, in lower case, `None` for other files.
pub(crate) fn ending(name: &str) -> Option<&'static str> {
    [".nii.gz", ".nii", ".nrrd", ".mha"].into_iter().find(|ending| name.to_lowercase().ends_with(ending))
}

/// Shape `(k, j, i)` of a file from its sizes, fastest first, bounded before anything is allocated.
pub(crate) fn shape_of(sizes: &[usize], path: &Path) -> Result<[usize; 3], ConvertError> {
    let wrong = || ConvertError::Header {
        path: path.to_owned(),
        wanted: "wanted three dimensions with at most 2^30 voxels",
        found: format!("{sizes:?}"),
    };
    let [i, j, k] = <[usize; 3]>::try_from(sizes).map_err(|_other| wrong())?;
    let count = i.checked_mul(j).and_then(|n| n.checked_mul(k)).ok_or_else(wrong)?;
    if count == 0 || count > MOST_VOXELS { Err(wrong()) } else { Ok([k, j, i]) }
}

/// Reads voxels slice by slice.
pub(crate) fn read_voxels<V: Voxel>(
    mut reader: impl Read,
    shape: [usize; 3],
    storage: Storage,
    path: &Path,
) -> Result<Array3<V>, ConvertError> {
    let size = storage.kind.size();
    let count: usize = shape.iter().product();
    // Room is made ahead for no more than any CT has; a file that says more shows it first.
    let mut voxels: Vec<V> = Vec::with_capacity(count.min(MOST_AHEAD));
    let mut chunk = vec![0_u8; size * shape[1] * shape[2]];
    while voxels.len() < count {
        reader
            .read_exact(&mut chunk)
            .map_err(|source| ConvertError::Read { path: path.to_owned(), source })?;
        if V::append_plain(&chunk, storage, &mut voxels) {
            continue;
        }
        for bytes in chunk.chunks_exact(size) {
            let value = storage.kind.value(bytes, storage.big_endian) * storage.slope + storage.intercept;
            voxels.push(V::of_value(value, path)?);
        }
    }
    Ok(Array3::from_shape_vec(shape, voxels).expect("whole slices were read until the count was reached"))
}

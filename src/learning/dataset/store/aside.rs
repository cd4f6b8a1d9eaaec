//! Cases on their way in: their files are written beside those of the set, by several threads.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::{Array3, s};
use sha2::{Digest, Sha256};

use super::index::{CaseEntry, OrganEntry};
use super::uncached::UncachedFile;
use super::{IMAGE, ORGANS, PART, StoreError, file_error};
use crate::convert::{ConvertError, nifti_file};
use crate::learning::dataset::Case;
use crate::learning::dataset::import::{Fault, NewCase};
use crate::learning::dataset::plausible::{Review, review};
use crate::vocabulary::space::{Grid, VoxelBox, VoxelIndex};

/// Writes the files of cases beside those of the set.
#[derive(Debug)]
pub struct CaseWriter {
    cases: PathBuf,
    n_begun: AtomicU64,
}

/// A case whose files are written and synced, but which is not in the set yet.
#[derive(Debug)]
pub struct Aside {
    pub(super) folder: PathBuf,
    pub(super) entry: CaseEntry,
}

impl CaseWriter {
    pub(super) fn new(cases: PathBuf) -> Self {
        Self { cases, n_begun: AtomicU64::new(0) }
    }

    /// Writes a case; `as_drawn` believes every drawing.
    ///
    /// # Errors
    /// [`Fault::Store`]; nothing is left behind then.
    pub fn write(&self, new: &NewCase, as_drawn: bool) -> Result<Aside, Fault> {
        let number = self.n_begun.fetch_add(1, Ordering::Relaxed);
        let folder = self.cases.join(format!("{PART}{number}"));
        fs::create_dir(&folder).map_err(file_error("make", &folder)).map_err(Fault::Store)?;
        let review = review(&new.case);
        match write_files(&folder, &new.case, review.region) {
            Ok(hashes) => Ok(Aside { folder, entry: entry_of(new, &review, as_drawn, hashes) }),
            Err(error) => {
                drop(fs::remove_dir_all(&folder));
                Err(Fault::Store(error))
            }
        }
    }
}

/// Writes image and organs of a case and gives their hashes.
fn write_files(folder: &Path, case: &Case, region: VoxelBox) -> Result<[String; 2], StoreError> {
    let image = write_volume(&folder.join(IMAGE), |path, out| {
        nifti_file::write_into(out, path, case.hu.view(), &case.grid).map(drop)
    })?;
    let (part, grid) = organ_box(case, region);
    let organs = write_volume(&folder.join(ORGANS), |path, out| {
        let packed = GzEncoder::new(out, Compression::fast());
        let packed = nifti_file::write_into(packed, path, part.view(), &grid)?;
        let written = packed.finish().map(drop);
        written.map_err(|source| ConvertError::Write { path: path.to_owned(), source })
    })?;
    Ok([image, organs])
}

/// The part of the organs that holds any, `region`, and where it lies.
fn organ_box(case: &Case, VoxelBox { start, end }: VoxelBox) -> (Array3<u32>, Grid) {
    // A case without a voxel of any organ keeps its first voxel, so that the file is a volume.
    let end = std::array::from_fn::<usize, 3, _>(|axis| end[axis].max(start[axis] + 1));
    let [z0, y0, x0] = start;
    let part = case.organs.slice(s![z0..end[0], y0..end[1], x0..end[2]]).to_owned();
    let origin = case.grid.patient_from_voxel(VoxelIndex { z: z0, y: y0, x: x0 }.into());
    let grid = Grid::axial(part.dim().into(), case.grid.spacing_mm(), origin);
    (part, grid.expect("a part of a grid with at least one voxel is a grid"))
}

fn entry_of(
    new: &NewCase,
    review: &Review,
    as_drawn: bool,
    [image_sha256, organs_sha256]: [String; 2],
) -> CaseEntry {
    let case = &new.case;
    let said = |organ| {
        let of_it = review.doubts.iter().chain(&review.remarks).filter(move |(other, _)| *other == organ);
        of_it.map(|(_, doubt)| doubt.to_string()).collect::<Vec<_>>()
    };
    let organs = review.cm3.iter().map(|(organ, cm3)| {
        let entry = OrganEntry {
            cm3: (cm3 * 1000.0).round() / 1000.0,
            from: new.from.get(organ).cloned().unwrap_or_default(),
            doubts: said(*organ),
            set_aside: !as_drawn && review.doubts.iter().any(|(doubted, _)| doubted == organ),
        };
        (organ.key(), entry)
    });
    let origin = case.grid.origin();
    CaseEntry {
        id: case.name.clone(),
        patient: new.patient.clone(),
        part: new.split,
        layout: new.layout.to_owned(),
        notice: None,
        shape: case.grid.shape(),
        spacing_mm: case.grid.spacing_mm(),
        origin_mm: [origin.x, origin.y, origin.z],
        organs: organs.collect(),
        notes: new.notes.clone(),
        image_sha256,
        organs_sha256,
    }
}

/// Counts what goes through into a hash.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type VolumeWriter = Hashing<UncachedFile>;

/// Writes a file through `write`, syncs it and gives its SHA-256.
fn write_volume(
    path: &Path,
    write: impl FnOnce(&Path, &mut VolumeWriter) -> Result<(), ConvertError>,
) -> Result<String, StoreError> {
    let failed = |source| StoreError::File { operation: "write", path: path.to_owned(), source };
    let mut out = Hashing { inner: UncachedFile::create(path).map_err(failed)?, hash: Sha256::new() };
    write(path, &mut out).map_err(StoreError::Volume)?;
    out.inner.finish().map_err(failed)?;
    Ok(hexadecimal(out.hash))
}

pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

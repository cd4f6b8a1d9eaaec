//! NIfTI-1: volumes in, volumes out. Its world is RAS, ours is LPS: x and y change sign.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::ArrayView3;
use nifti::{Endianness, NiftiHeader};

use super::error::ConvertError;
use super::volume::{Geometry, Kind, Storage, Volume, Voxel, read_voxels, shape_of};
use crate::vocabulary::space::{Grid, PatientPoint, PatientVector};

/// Reads a NIfTI-1 file that is already decompressed.
pub(crate) fn read<V: Voxel>(mut reader: impl Read, path: &Path) -> Result<Volume<V>, ConvertError> {
    let wrong = |wanted, found: String| ConvertError::Header { path: path.to_owned(), wanted, found };
    let header = NiftiHeader::from_reader(&mut reader)
        .map_err(|e| wrong("wanted a NIfTI-1 header in one file", e.to_string()))?;
    let rank = usize::from(header.dim[0].min(7));
    let mut sizes: Vec<usize> = header.dim[1..=rank].iter().map(|n| usize::from(*n)).collect();
    while sizes.len() > 3 && sizes.last() == Some(&1) {
        sizes.pop();
    }
    let shape = shape_of(&sizes, path)?;
    let kind = match header.datatype {
        2 => Kind::U8,
        256 => Kind::I8,
        512 => Kind::U16,
        4 => Kind::I16,
        768 => Kind::U32,
        8 => Kind::I32,
        1280 => Kind::U64,
        1024 => Kind::I64,
        16 => Kind::F32,
        64 => Kind::F64,
        other => return Err(wrong("wanted a datatype of plain numbers", other.to_string())),
    };
    let slope = f64::from(header.scl_slope);
    let scaled = slope.is_finite() && slope.abs() > 0.0;
    let storage = Storage {
        kind,
        big_endian: header.endianness == Endianness::Big,
        slope: if scaled { slope } else { 1.0 },
        intercept: if scaled { f64::from(header.scl_inter) } else { 0.0 },
    };
    let offset = f64::from(header.vox_offset);
    if !(348.0..=1e6).contains(&offset) {
        return Err(wrong("wanted the voxels in the same file (vox_offset 348 to 1e6)", offset.to_string()));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked on the line above")]
    let skip = offset as u64 - 348;
    let failed = |source| ConvertError::Read { path: path.to_owned(), source };
    std::io::copy(&mut reader.by_ref().take(skip), &mut std::io::sink()).map_err(failed)?;
    let geometry = geometry(&header)
        .ok_or_else(|| wrong("wanted sform or qform to say where the voxels lie", "neither".to_owned()))?;
    let voxels = read_voxels(reader, shape, storage, path)?;
    Ok(Volume { path: path.to_owned(), voxels, geometry, names: BTreeMap::new() })
}

fn geometry(header: &NiftiHeader) -> Option<Geometry> {
    let rows: [[f64; 4]; 3] = if header.sform_code > 0 {
        [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from))
    } else if header.qform_code > 0 {
        qform(header)
    } else {
        return None;
    };
    let [x, y, z] = rows;
    let column = |c: usize| PatientVector::lps(-x[c], -y[c], z[c]);
    Some(Geometry {
        origin: PatientPoint::lps_mm(-x[3], -y[3], z[3]),
        steps: [column(0), column(1), column(2)],
    })
}

/// Source: NIfTI-1 standard, method 2.
fn qform(header: &NiftiHeader) -> [[f64; 4]; 3] {
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let [_, i, j, k, ..] = header.pixdim.map(f64::from);
    let k = if header.pixdim[0] < 0.0 { -k } else { k };
    let [ox, oy, oz] = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    [
        [(a * a + b * b - c * c - d * d) * i, 2.0 * (b * c - a * d) * j, 2.0 * (b * d + a * c) * k, ox],
        [2.0 * (b * c + a * d) * i, (a * a + c * c - b * b - d * d) * j, 2.0 * (c * d - a * b) * k, oy],
        [2.0 * (b * d - a * c) * i, 2.0 * (c * d + a * b) * j, (a * a + d * d - b * b - c * c) * k, oz],
    ]
}

/// What a voxel is written as.
pub(crate) trait Stored: bytemuck::NoUninit {
    /// NIfTI's code of the number format.
    const DATATYPE: i16;
    /// Its size.
    const BITS: i16;
    /// With its little end first in memory.
    fn little_end_first(self) -> Self;
}

impl Stored for u8 {
    const DATATYPE: i16 = 2;
    const BITS: i16 = 8;
    fn little_end_first(self) -> Self {
        self.to_le()
    }
}

impl Stored for i16 {
    const DATATYPE: i16 = 4;
    const BITS: i16 = 16;
    fn little_end_first(self) -> Self {
        self.to_le()
    }
}

impl Stored for u32 {
    const DATATYPE: i16 = 768;
    const BITS: i16 = 32;
    fn little_end_first(self) -> Self {
        self.to_le()
    }
}

/// Writes voxels on a grid, axes `(z, y, x)`, as compressed NIfTI-1.
///
/// # Errors
/// [`ConvertError::Write`], and [`ConvertError::Header`] for an image side beyond 32767.
pub(crate) fn write<V: Stored>(
    path: &Path,
    voxels: ArrayView3<'_, V>,
    grid: &Grid,
) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Write { path: path.to_owned(), source };
    let file = BufWriter::new(File::create(path).map_err(failed)?);
    let out = GzEncoder::new(file, Compression::fast());
    let out = write_into(out, path, voxels, grid)?;
    out.finish().and_then(|mut file| file.flush()).map_err(failed)
}

/// Writes voxels on a grid, axes `(z, y, x)`, as NIfTI-1 into anything; `path` is what messages call it.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_into<V: Stored, W: Write>(
    mut out: W,
    path: &Path,
    voxels: ArrayView3<'_, V>,
    grid: &Grid,
) -> Result<W, ConvertError> {
    let failed = |source| ConvertError::Write { path: path.to_owned(), source };
    let header = header_bytes(grid, V::DATATYPE, V::BITS).ok_or_else(|| ConvertError::Header {
        path: path.to_owned(),
        wanted: "wanted at most 32767 voxels along each axis",
        found: format!("{:?}", grid.shape()),
    })?;
    out.write_all(&header).map_err(failed)?;
    for plane in voxels.outer_iter() {
        let mut plane = plane.as_standard_layout();
        if cfg!(target_endian = "big") {
            plane.map_inplace(|voxel| *voxel = voxel.little_end_first());
        }
        let voxels = plane.as_slice().expect("in standard layout by the lines above");
        out.write_all(bytemuck::cast_slice(voxels)).map_err(failed)?;
    }
    Ok(out)
}

/// The 352 bytes before the voxels: sform in scanner coordinates.
#[expect(clippy::cast_possible_truncation, reason = "the header holds f32")]
fn header_bytes(grid: &Grid, datatype: i16, bits: i16) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348_i32.to_le_bytes());
    put(40, &3_i16.to_le_bytes());
    let [z, y, x] = grid.shape();
    for (n, size) in [x, y, z, 1, 1, 1, 1].into_iter().enumerate() {
        put(42 + 2 * n, &i16::try_from(size).ok()?.to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &bits.to_le_bytes());
    let [sz, sy, sx] = grid.spacing_mm();
    for (n, size) in [1.0, sx, sy, sz].into_iter().enumerate() {
        put(76 + 4 * n, &(size as f32).to_le_bytes());
    }
    put(108, &352_f32.to_le_bytes());
    put(112, &1_f32.to_le_bytes());
    put(123, &[2]);
    put(254, &1_i16.to_le_bytes());
    let [dz, dy, dx] = grid.directions();
    let (steps, o) = ([dx * sx, dy * sy, dz * sz], grid.origin());
    let rows = [
        [-steps[0].x, -steps[1].x, -steps[2].x, -o.x],
        [-steps[0].y, -steps[1].y, -steps[2].y, -o.y],
        [steps[0].z, steps[1].z, steps[2].z, o.z],
    ];
    for (r, row) in rows.into_iter().enumerate() {
        for (c, value) in row.into_iter().enumerate() {
            put(280 + 16 * r + 4 * c, &(value as f32).to_le_bytes());
        }
    }
    put(344, b"n+1\0");
    Some(bytes)
}

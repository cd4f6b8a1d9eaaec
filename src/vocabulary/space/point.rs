//! Points and vectors of the two frames.

use std::ops::{Add, Mul, Sub};

/// A point in the patient: LPS millimetres (x to the left, y to posterior, z to superior; PS3.3 C.7.6.2.1.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatientPoint {
    /// Towards the patient's left, mm.
    pub x: f64,
    /// Towards posterior, mm.
    pub y: f64,
    /// Towards superior, mm.
    pub z: f64,
}

/// A displacement in the patient, LPS millimetres (or without unit, for a direction).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatientVector {
    /// Towards the patient's left.
    pub x: f64,
    /// Towards posterior.
    pub y: f64,
    /// Towards superior.
    pub z: f64,
}

/// A place on a grid in voxels, integer at voxel centres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoxelPoint {
    /// Slice.
    pub z: f64,
    /// Row.
    pub y: f64,
    /// Column.
    pub x: f64,
}

/// One voxel of a grid, zero-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoxelIndex {
    /// Slice.
    pub z: usize,
    /// Row.
    pub y: usize,
    /// Column.
    pub x: usize,
}

impl PatientPoint {
    /// A point from its LPS coordinates in millimetres.
    #[must_use]
    pub const fn lps_mm(x: f64, y: f64, z: f64) -> Self {
        Self { x, y, z }
    }

    /// Distance to another point, mm.
    #[must_use]
    pub fn distance_mm(self, other: Self) -> f64 {
        (self - other).length()
    }
}

impl PatientVector {
    /// A vector from its LPS components.
    #[must_use]
    pub const fn lps(x: f64, y: f64, z: f64) -> Self {
        Self { x, y, z }
    }

    /// Euclidean length.
    #[must_use]
    pub fn length(self) -> f64 {
        self.dot(self).sqrt()
    }

    /// Scalar product.
    #[must_use]
    pub fn dot(self, other: Self) -> f64 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    /// Vector product.
    #[must_use]
    pub fn cross(self, other: Self) -> Self {
        Self {
            x: self.y * other.z - self.z * other.y,
            y: self.z * other.x - self.x * other.z,
            z: self.x * other.y - self.y * other.x,
        }
    }
}

impl Sub for PatientPoint {
    type Output = PatientVector;
    fn sub(self, other: Self) -> PatientVector {
        PatientVector { x: self.x - other.x, y: self.y - other.y, z: self.z - other.z }
    }
}

impl Add<PatientVector> for PatientPoint {
    type Output = Self;
    fn add(self, v: PatientVector) -> Self {
        Self { x: self.x + v.x, y: self.y + v.y, z: self.z + v.z }
    }
}

impl Add for PatientVector {
    type Output = Self;
    fn add(self, v: Self) -> Self {
        Self { x: self.x + v.x, y: self.y + v.y, z: self.z + v.z }
    }
}

impl Mul<f64> for PatientVector {
    type Output = Self;
    fn mul(self, s: f64) -> Self {
        Self { x: self.x * s, y: self.y * s, z: self.z * s }
    }
}

impl From<VoxelIndex> for VoxelPoint {
    fn from(v: VoxelIndex) -> Self {
        Self { z: v.z as f64, y: v.y as f64, x: v.x as f64 }
    }
}

//! Where the scanner looked: any patient position, oblique, tilted, any spacing.

use std::str::FromStr;

use super::PhantomError;
use crate::vocabulary::space::{Grid, PatientPoint, PatientVector};

/// Most voxels of a scan: 1000 slices of 1024 x 1024, 2 GB.
const MOST_VOXELS: usize = 1 << 30;

/// How the patient lay on the table (PS3.3 C.7.3.1.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatientPosition {
    code: &'static str,
    /// Patient direction that pointed down.
    down: [i8; 3],
    /// Patient direction that pointed into the gantry: +z head first, -z feet first.
    into: i8,
}

/// Down is posterior for supine, anterior for prone, and the named side for decubitus.
const POSITIONS: [PatientPosition; 8] = [
    PatientPosition { code: "HFS", down: [0, 1, 0], into: 1 },
    PatientPosition { code: "HFP", down: [0, -1, 0], into: 1 },
    PatientPosition { code: "HFDL", down: [1, 0, 0], into: 1 },
    PatientPosition { code: "HFDR", down: [-1, 0, 0], into: 1 },
    PatientPosition { code: "FFS", down: [0, 1, 0], into: -1 },
    PatientPosition { code: "FFP", down: [0, -1, 0], into: -1 },
    PatientPosition { code: "FFDL", down: [1, 0, 0], into: -1 },
    PatientPosition { code: "FFDR", down: [-1, 0, 0], into: -1 },
];

impl PatientPosition {
    /// The value of Patient Position (0018,5100).
    #[must_use]
    pub fn code(self) -> &'static str {
        self.code
    }

    /// Directions `(z, y, x)` of an upright image: rows grow down, slices into the gantry, right-handed.
    fn directions(self) -> [PatientVector; 3] {
        let [x, y, z] = self.down.map(f64::from);
        let (down, into) = (PatientVector::lps(x, y, z), PatientVector::lps(0.0, 0.0, f64::from(self.into)));
        [into, down, down.cross(into)]
    }
}

impl FromStr for PatientPosition {
    type Err = PhantomError;
    fn from_str(text: &str) -> Result<Self, PhantomError> {
        let found = POSITIONS.into_iter().find(|position| position.code == text);
        found.ok_or_else(|| PhantomError::Position { found: text.chars().take(20).collect() })
    }
}

/// A stack of images in the patient.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanGeometry {
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Between slices (along the stack), between rows, between columns, mm.
    pub spacing_mm: [f64; 3],
    /// Middle of the stack.
    pub centre: PatientPoint,
    /// How the patient lay.
    pub position: PatientPosition,
    /// Turn of the images about the patient's axes z, then x, degrees: an oblique reconstruction.
    pub turned_deg: [f64; 2],
    /// Gantry tilt, degrees: the images turn about their rows while the table goes straight on, so the stack is sheared.
    pub tilt_deg: f64,
}

impl ScanGeometry {
    /// Checks every number.
    ///
    /// # Errors
    /// [`PhantomError::Geometry`] names the first that makes no scan.
    pub fn check(&self) -> Result<(), PhantomError> {
        let wrong = |what, found: String, wanted| Err(PhantomError::Geometry { what, found, wanted });
        let n_voxels = self.shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
        if n_voxels.is_none_or(|n| n == 0 || n > MOST_VOXELS) || self.shape.iter().any(|n| *n > 10_000) {
            let wanted = "1 to 10000 slices, rows and columns, at most 2^30 voxels";
            return wrong("the size", format!("{:?}", self.shape), wanted);
        }
        if !self.spacing_mm.iter().all(|mm| (0.01..=100.0).contains(mm)) {
            return wrong("the spacing in mm", format!("{:?}", self.spacing_mm), "0.01 to 100 mm each");
        }
        let upright = (-60.0..=60.0).contains(&self.tilt_deg);
        if !upright || self.turned_deg.iter().any(|deg| !deg.is_finite()) {
            return wrong("the tilt in degrees", self.tilt_deg.to_string(), "-60 to 60");
        }
        Ok(())
    }

    /// Unit directions in which slice (of the stack), row and column index grow. With a tilt they are not at right
    /// angles.
    #[must_use]
    pub fn directions(&self) -> [PatientVector; 3] {
        let [about_z, about_x] = self.turned_deg.map(f64::to_radians);
        let turn = |v: PatientVector| {
            let (sin, cos) = about_z.sin_cos();
            let v = PatientVector::lps(cos * v.x - sin * v.y, sin * v.x + cos * v.y, v.z);
            let (sin, cos) = about_x.sin_cos();
            PatientVector::lps(v.x, cos * v.y - sin * v.z, sin * v.y + cos * v.z)
        };
        let [stack, down, across] = self.position.directions().map(turn);
        let (sin, cos) = self.tilt_deg.to_radians().sin_cos();
        [stack, down * cos + stack * sin, across]
    }

    /// Where a place in the stack lies, in voxels `(z, y, x)`, integer at voxel centres.
    #[must_use]
    pub fn patient_from_stack(&self, voxel: [f64; 3]) -> PatientPoint {
        let (first, steps) = self.steps();
        first + steps[0] * voxel[0] + steps[1] * voxel[1] + steps[2] * voxel[2]
    }

    /// The centre of the first voxel, and the way from one to the next on each axis `(z, y, x)`, mm.
    pub(super) fn steps(&self) -> (PatientPoint, [PatientVector; 3]) {
        let directions = self.directions();
        let steps = std::array::from_fn(|axis| directions[axis] * self.spacing_mm[axis]);
        let first =
            (0..3).fold(self.centre, |at, axis| at + steps[axis] * -((self.shape[axis] as f64 - 1.0) / 2.0));
        (first, steps)
    }

    /// The same as a grid; `None` with a tilt, since the voxels are then no bricks.
    #[must_use]
    pub fn grid(&self) -> Option<Grid> {
        let origin = self.patient_from_stack([0.0; 3]);
        Grid::new(self.shape, self.spacing_mm, origin, self.directions())
            .ok()
            .filter(|_| self.tilt_deg.abs() < 1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::VoxelPoint;

    fn geometry(code: &str) -> ScanGeometry {
        ScanGeometry {
            shape: [5, 7, 11],
            spacing_mm: [2.5, 0.9, 1.3],
            centre: PatientPoint::lps_mm(4.0, -7.0, 31.0),
            position: code.parse().unwrap(),
            turned_deg: [0.0; 2],
            tilt_deg: 0.0,
        }
    }

    /// By PS3.3 C.7.3.1.1.2: what a viewer sees at the right and the lower edge of the image, and towards the next slice.
    #[test]
    fn positions_lay_the_patient_as_their_codes_say() {
        let wanted = [
            ("HFS", "LPS"),
            ("HFP", "RAS"),
            ("HFDL", "ALS"),
            ("HFDR", "PRS"),
            ("FFS", "RPI"),
            ("FFP", "LAI"),
            ("FFDL", "PLI"),
            ("FFDR", "ARI"),
        ];
        let letter = |v: PatientVector| {
            let names = [(v.x, 'L', 'R'), (v.y, 'P', 'A'), (v.z, 'S', 'I')];
            let (value, high, low) =
                names.into_iter().max_by(|a, b| a.0.abs().total_cmp(&b.0.abs())).unwrap();
            if value > 0.0 { high } else { low }
        };
        for (code, letters) in wanted {
            let [z, y, x] = geometry(code).directions();
            assert_eq!([x, y, z].map(letter).iter().collect::<String>(), letters, "{code}");
            assert!(geometry(code).grid().is_some(), "{code}");
        }
        assert!("HFX".parse::<PatientPosition>().is_err());
    }

    #[test]
    fn stack_and_grid_agree_when_oblique_and_part_when_tilted() {
        let mut oblique = geometry("FFDR");
        oblique.turned_deg = [17.0, -23.0];
        let (grid, voxel) = (oblique.grid().unwrap(), VoxelPoint { z: 3.0, y: 1.5, x: 8.0 });
        let found = oblique.patient_from_stack([3.0, 1.5, 8.0]);
        assert!(grid.patient_from_voxel(voxel).distance_mm(found) < 1e-9);
        let mut tilted = geometry("HFS");
        tilted.tilt_deg = 20.0;
        assert_eq!(tilted.grid(), None);
        // One slice on: 2.5 mm along the table, not along the normal of the images.
        let step = tilted.patient_from_stack([1.0, 2.0, 3.0]) - tilted.patient_from_stack([0.0, 2.0, 3.0]);
        assert!((step.z - 2.5).abs() < 1e-12 && step.y.abs() < 1e-12, "{step:?}");
    }

    #[test]
    fn numbers_that_make_no_scan_are_named() {
        let mut empty = geometry("HFS");
        empty.shape[1] = 0;
        assert!(empty.check().unwrap_err().to_string().contains("size"));
        let mut flat = geometry("HFS");
        flat.spacing_mm[2] = f64::NAN;
        assert!(flat.check().unwrap_err().to_string().contains("spacing"));
        let mut huge = geometry("HFS");
        huge.shape = [9_999, 9_999, 9_999];
        assert!(huge.check().is_err());
    }
}

//! The midsagittal plane, from the organs themselves: heads are turned and tilted.

use crate::vocabulary::space::PatientPoint;

/// The plane x = `at_x_mm` + `per_y` (y - `y_mm`) + `per_z` (z - `z_mm`), LPS.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Midplane {
    at_x_mm: f64,
    y_mm: f64,
    z_mm: f64,
    per_y: f64,
    per_z: f64,
}

/// How far a centre or a midpoint lies from the plane in a well-contoured patient, mm; points beyond count less.
const SPREAD_MM: f64 = 6.0;
/// Slopes are held back towards upright as if so much were usual: 14 degrees.
const USUAL_SLOPE: f64 = 0.25;
/// Rounds of weighting.
const N_ROUNDS: usize = 8;

impl Midplane {
    /// The plane through points that lie near it, such as centres of unpaired organs and midpoints of pairs. A point
    /// that does not fit the others counts less. `None` with fewer than three.
    #[must_use]
    pub fn through(points: &[PatientPoint]) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let mut plane = Self { at_x_mm: median(points), y_mm: 0.0, z_mm: 0.0, per_y: 0.0, per_z: 0.0 };
        for _ in 0..N_ROUNDS {
            let weights: Vec<f64> =
                points.iter().map(|p| 1.0 / (plane.left_mm(*p).abs() / SPREAD_MM).max(1.0).powi(2)).collect();
            plane = Self::weighted(points, &weights);
        }
        Some(plane)
    }

    fn weighted(points: &[PatientPoint], weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mean = |of: fn(&PatientPoint) -> f64| {
            points.iter().zip(weights).map(|(p, w)| of(p) * w).sum::<f64>() / total
        };
        let (x, y, z) = (mean(|p| p.x), mean(|p| p.y), mean(|p| p.z));
        let sum = |of: &dyn Fn(&PatientPoint) -> f64| {
            points.iter().zip(weights).map(|(p, w)| of(p) * w).sum::<f64>()
        };
        let ridge = (SPREAD_MM / USUAL_SLOPE).powi(2);
        let yy = sum(&|p| (p.y - y).powi(2)) + ridge;
        let zz = sum(&|p| (p.z - z).powi(2)) + ridge;
        let yz = sum(&|p| (p.y - y) * (p.z - z));
        let (xy, xz) = (sum(&|p| (p.x - x) * (p.y - y)), sum(&|p| (p.x - x) * (p.z - z)));
        // Positive: the ridge stands on the diagonal.
        let determinant = yy * zz - yz * yz;
        Self {
            at_x_mm: x,
            y_mm: y,
            z_mm: z,
            per_y: (xy * zz - xz * yz) / determinant,
            per_z: (xz * yy - xy * yz) / determinant,
        }
    }

    /// How far a point lies to the patient's left of the plane, along x, mm; negative is right.
    #[must_use]
    pub fn left_mm(&self, p: PatientPoint) -> f64 {
        p.x - self.at_x_mm - self.per_y * (p.y - self.y_mm) - self.per_z * (p.z - self.z_mm)
    }
}

fn median(points: &[PatientPoint]) -> f64 {
    let mut x: Vec<f64> = points.iter().map(|p| p.x).collect();
    x.sort_unstable_by(f64::total_cmp);
    (x[(x.len() - 1) / 2] + x[x.len() / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head tilted by a slope of 0.2 along z and turned by -0.1 along y, with one point 60 mm off.
    #[test]
    fn a_tilted_head_and_an_outlier_are_seen_through() {
        let on = |y: f64, z: f64, off: f64| PatientPoint::lps_mm(4.0 - 0.1 * y + 0.2 * z + off, y, z);
        let points = [
            on(-30.0, -80.0, 2.0),
            on(10.0, -60.0, -1.0),
            on(-50.0, -20.0, 1.0),
            on(20.0, 0.0, -2.0),
            on(0.0, 30.0, 1.0),
            on(-60.0, 40.0, 0.0),
            on(5.0, 10.0, 60.0),
        ];
        let plane = Midplane::through(&points).unwrap();
        for (y, z) in [(-40.0, -50.0), (10.0, 30.0), (0.0, 0.0)] {
            let off = plane.left_mm(on(y, z, 0.0));
            assert!(off.abs() < 4.0, "{off} mm at {y}, {z}");
            assert!((plane.left_mm(on(y, z, 25.0)) - off - 25.0).abs() < 1e-9);
        }
        assert_eq!(Midplane::through(&points[..2]), None);
    }
}

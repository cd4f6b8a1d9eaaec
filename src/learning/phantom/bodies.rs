//! Simple bodies at known millimetres; nothing symmetric.

use super::{Phantom, StructureName};
use crate::vocabulary::space::{PatientPoint, PatientVector};

/// Six bodies in an elliptic cylinder of water round the origin of the patient's frame.
///
/// Each body has its own distance to each mirror plane, so a swap of sides, ends or axes moves each by another amount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bodies;

/// Half axes of the cylinder of water, across and front to back, mm, and its half length.
const WATER_MM: [f64; 3] = [88.0, 70.0, 78.0];

/// Name, HU.
const BODIES: [(&str, f64); 6] = [
    ("Ball", 80.0),
    ("Ellipsoid", -90.0),
    ("Tube", 300.0),
    ("Ring", 600.0),
    ("Two pieces", 150.0),
    ("Brick", -400.0),
];

/// Places, as `[across, front to back, up]` in mm.
const BALL: ([f64; 3], f64) = ([30.0, -20.0, 10.0], 15.0);
const ELLIPSOID: ([f64; 3], [f64; 3]) = ([-35.0, 12.0, -18.0], [18.0, 9.0, 12.0]);
const TUBE: ([f64; 3], [f64; 3], f64) = ([-20.0, 40.0, -50.0], [8.0, 48.0, 45.0], 6.0);
const RING: ([f64; 3], f64, f64, f64) = ([45.0, 22.0, -35.0], 14.0, 6.0, 16.0);
const PIECES: [([f64; 3], f64); 2] = [([-52.0, -25.0, 30.0], 8.0), ([-30.0, -40.0, 34.0], 5.0)];
const BRICK: ([f64; 3], [f64; 3]) = ([-12.0, -18.0, 32.0], [7.0, 11.0, 9.0]);

impl Bodies {
    /// Volumes by formula, mm3, in the order of the structures.
    #[must_use]
    pub fn volumes_mm3() -> [f64; 6] {
        let ball = |r: f64| 4.0 / 3.0 * std::f64::consts::PI * r.powi(3);
        let [a, b, c] = ELLIPSOID.1;
        let tube = vector(TUBE.0, TUBE.1).length() * std::f64::consts::PI * TUBE.2 * TUBE.2;
        let ring = std::f64::consts::PI * (RING.1 * RING.1 - RING.2 * RING.2) * RING.3;
        let [p, q, r] = BRICK.1;
        let pieces = ball(PIECES[0].1) + ball(PIECES[1].1);
        [ball(BALL.1), 4.0 / 3.0 * std::f64::consts::PI * a * b * c, tube, ring, pieces, 8.0 * p * q * r]
    }

    /// Centre of the ball, LPS mm.
    #[must_use]
    pub fn ball_centre() -> PatientPoint {
        let [x, y, z] = BALL.0;
        PatientPoint::lps_mm(x, y, z)
    }
}

impl Phantom for Bodies {
    fn structures(&self) -> Vec<StructureName> {
        let names = BODIES.into_iter().map(|(name, _)| StructureName { name: name.into(), organ: None });
        names.collect()
    }

    fn structures_at(&self, point: PatientPoint) -> u32 {
        (0..BODIES.len()).filter(|body| inside(*body, point)).fold(0, |set, body| set | 1 << body)
    }

    fn hu_at(&self, point: PatientPoint) -> f64 {
        let body = (0..BODIES.len()).find(|body| inside(*body, point));
        let [a, b, half] = WATER_MM;
        let in_water = (point.x / a).powi(2) + (point.y / b).powi(2) <= 1.0 && point.z.abs() <= half;
        body.map_or(if in_water { 0.0 } else { -1000.0 }, |body| BODIES[body].1)
    }

    fn footprint(&self) -> &'static [[f64; 3]] {
        const Q: f64 = 0.25;
        &[[-Q, -Q, -Q], [-Q, -Q, Q], [-Q, Q, -Q], [-Q, Q, Q], [Q, -Q, -Q], [Q, -Q, Q], [Q, Q, -Q], [Q, Q, Q]]
    }
}

fn inside(body: usize, p: PatientPoint) -> bool {
    let from = |centre: [f64; 3]| p - PatientPoint::lps_mm(centre[0], centre[1], centre[2]);
    match body {
        0 => from(BALL.0).length() <= BALL.1,
        1 => {
            let (d, [a, b, c]) = (from(ELLIPSOID.0), ELLIPSOID.1);
            (d.x / a).powi(2) + (d.y / b).powi(2) + (d.z / c).powi(2) <= 1.0
        }
        2 => {
            let (axis, d) = (vector(TUBE.0, TUBE.1), from(TUBE.0));
            let along = d.dot(axis) / axis.dot(axis);
            (0.0..=1.0).contains(&along) && (d + axis * -along).length() <= TUBE.2
        }
        3 => {
            let d = from(RING.0);
            let radius = d.x.hypot(d.y);
            (RING.2..=RING.1).contains(&radius) && d.z.abs() <= RING.3 / 2.0
        }
        4 => PIECES.into_iter().any(|(centre, radius)| from(centre).length() <= radius),
        _ => {
            let (d, [a, b, c]) = (from(BRICK.0), BRICK.1);
            d.x.abs() <= a && d.y.abs() <= b && d.z.abs() <= c
        }
    }
}

fn vector(from: [f64; 3], to: [f64; 3]) -> PatientVector {
    PatientVector::lps(to[0] - from[0], to[1] - from[1], to[2] - from[2])
}

#[cfg(test)]
mod tests {
    use super::super::{ScanGeometry, scan};
    use super::*;

    /// On a turned grid of about 1 mm: volumes within 2 %, no two bodies in one voxel, the ball where it was put.
    #[test]
    fn bodies_have_their_volumes_and_do_not_touch() {
        let geometry = ScanGeometry {
            shape: [125, 150, 170],
            spacing_mm: [1.3, 1.0, 1.1],
            centre: PatientPoint::lps_mm(1.0, -2.0, 3.0),
            position: "FFDR".parse().unwrap(),
            turned_deg: [12.0, -7.0],
            tilt_deg: 0.0,
        };
        let scan = scan(&Bodies, &geometry, 0.0, 1).unwrap();
        let grid = geometry.grid().unwrap();
        for ((name, mask), wanted) in scan.truth.iter().zip(Bodies::volumes_mm3()) {
            let found = mask.n_voxels() as f64 * grid.voxel_volume_mm3();
            assert!((found / wanted - 1.0).abs() < 0.02, "{}: {found} of {wanted} mm3", name.name);
        }
        let mut times = ndarray::Array3::<u8>::zeros(geometry.shape);
        for (_, mask) in &scan.truth {
            times.zip_mut_with(&mask.to_whole(geometry.shape), |n, inside| *n += u8::from(*inside));
        }
        assert!(times.iter().all(|n| *n <= 1));
        let ball = scan.truth[0].1.to_whole(geometry.shape);
        let (mut n, mut sum) = (0.0, PatientVector::lps(0.0, 0.0, 0.0));
        for ((z, y, x), _) in ball.indexed_iter().filter(|(_, inside)| **inside) {
            let point = geometry.patient_from_stack([z as f64, y as f64, x as f64]);
            sum = sum + (point - Bodies::ball_centre());
            n += 1.0;
        }
        assert!((sum * (1.0 / n)).length() < 0.05, "{sum:?}");
    }
}

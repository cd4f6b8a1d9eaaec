//! Points as DS: short enough, on their slice, and no point twice in a row.

use crate::pipeline::contours::PlanarContour;
use crate::pipeline::series::CtSeries;
use crate::vocabulary::space::{Grid, PatientPoint};

/// Decimals of what says on which slice a point lies: a tenth of a micrometre.
const FINEST: u8 = 4;

/// A normal this near to an axis of the patient is that axis: over 500 mm it moves a point by 0.05 micrometres.
const ALONG_AN_AXIS: f64 = 1e-7;

/// How many decimals x, y and z have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimals([u8; 3]);

impl Decimals {
    /// `wanted` along the axes in which the slices lie, and four across them. On oblique slices every coordinate says
    /// on which slice a point lies, so all have four.
    pub(super) fn of(grid: &Grid, wanted: u8) -> Self {
        let [normal, ..] = grid.directions();
        let across = [normal.x, normal.y, normal.z].map(|part| (part.abs() - 1.0).abs() < ALONG_AN_AXIS);
        let of = |is_across: bool| if is_across { FINEST } else { wanted.clamp(1, FINEST) };
        Self(if across.contains(&true) { across.map(of) } else { [FINEST; 3] })
    }

    /// Contour Data and the number of points; `None` where fewer than three are left of it. The points are moved along
    /// the normal onto the image's own position.
    pub(super) fn contour(self, contour: &PlanarContour, series: &CtSeries) -> Option<(String, usize)> {
        let [normal, ..] = series.grid.directions();
        let onto_the_image = normal * series.off_grid_mm(contour.slice);
        let mut points: Vec<String> =
            contour.points.iter().map(|p| self.point(*p + onto_the_image)).collect();
        points.dedup();
        if points.len() > 1 && points.first() == points.last() {
            points.pop();
        }
        (points.len() >= 3).then(|| (points.join("\\"), points.len()))
    }

    fn point(self, point: PatientPoint) -> String {
        let mut text = String::with_capacity(32);
        for (mm, decimals) in [point.x, point.y, point.z].into_iter().zip(self.0) {
            if !text.is_empty() {
                text.push('\\');
            }
            push_decimal(&mut text, mm, decimals);
        }
        text
    }
}

/// Appends a coordinate as DS in fixed notation. With at most four decimals it has at most 16 bytes up to 10 km, and a
/// tenth of a micrometre keeps the point on its image plane and on its side of every voxel centre.
fn push_decimal(data: &mut String, mm: f64, decimals: u8) {
    let start = data.len();
    *data += &format!("{mm:.*}", usize::from(decimals));
    let kept = data[start..].trim_end_matches('0').trim_end_matches('.').len();
    data.truncate(start + kept);
    if &data[start..] == "-0" {
        data.truncate(start);
        data.push('0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::PatientVector;

    #[test]
    fn coordinates_are_short_and_without_exponent() {
        let written = |mm| {
            let mut text = String::new();
            push_decimal(&mut text, mm, 4);
            text
        };
        assert_eq!(written(-0.000_01), "0");
        assert_eq!(written(-249.511_718_75), "-249.5117");
        assert_eq!(written(1.5e-7), "0");
        assert_eq!(written(100.0), "100");
        assert_eq!(written(1e7), "10000000");
    }

    #[test]
    fn only_what_lies_in_the_slice_is_rounded() {
        let axial = Grid::axial([3, 5, 7], [3.0, 0.9, 1.1], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        assert_eq!(Decimals::of(&axial, 2), Decimals([2, 2, 4]));
        assert_eq!(Decimals::of(&axial, 9), Decimals([4, 4, 4]));
        let point = PatientPoint::lps_mm(1.234_56, -7.896, 100.123_45);
        assert_eq!(Decimals::of(&axial, 2).point(point), "1.23\\-7.9\\100.1235");
        let x = PatientVector::lps(0.6, 0.8, 0.0);
        let y = PatientVector::lps(0.0, 0.0, -1.0);
        let oblique = Grid::new([3, 5, 7], [3.0, 0.9, 1.1], point, [x.cross(y), y, x]).unwrap();
        assert_eq!(Decimals::of(&oblique, 2), Decimals([4, 4, 4]));
    }
}

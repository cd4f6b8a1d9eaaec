//! From planes in any order to planes on a regular grid, or all reasons why there is none.

use super::error::Cause;
use super::slice::Plane;
use crate::vocabulary::space::{Grid, PatientPoint, PatientVector};

/// How far a slice may lie from its place on the regular grid, mm, along the normal or within its plane.
/// Half a unit of a position written with one decimal, the coarsest that scanners write; a twentieth of a
/// millimetre is far below what a contour shows.
pub(super) const POSITION_TOLERANCE_MM: f64 = 0.05;

/// How far direction cosines may differ from slice to slice. At 500 mm from the corner this moves a pixel by
/// 0.05 mm, as much as [`POSITION_TOLERANCE_MM`].
pub(super) const DIRECTION_TOLERANCE: f64 = 1e-4;

/// Slices nearer than this are at the same position, mm: no scanner reconstructs more finely than 0.1 mm.
pub(super) const SAME_POSITION_MM: f64 = 0.01;

/// How far a gap may be from a whole multiple of the usual distance and still be called missing slices.
pub(super) const GAP_TOLERANCE: f64 = 0.05;

/// Fewest slices that make a volume: fewer cannot hold an organ and its surroundings.
pub(super) const FEWEST_SLICES: usize = 6;

/// Smallest side of a matrix; what is smaller is a thumbnail.
pub(super) const SMALLEST_SIDE: u16 = 32;

/// Largest side of a matrix; it bounds what is allocated.
pub(super) const LARGEST_SIDE: u16 = 4096;

/// Sorts the planes along their normal and finds the grid they lie on. `planes` is not empty.
///
/// The grid's z is row direction x column direction, its first plane the lowest along it, its origin the Image
/// Position (Patient) of that plane.
pub(super) fn arrange(planes: Vec<Plane>) -> Result<(Vec<Plane>, Grid), Vec<Cause>> {
    let mut causes = Vec::new();
    check_same_kind(&planes, &mut causes);
    let Some((x, y)) = directions(&planes[0]) else {
        causes.extend(grid(&planes[0], planes.len(), 1.0).err());
        return Err(causes);
    };
    let normal = x.cross(y);
    let base = planes[0].position;
    let mut placed: Vec<(f64, Plane)> =
        planes.into_iter().map(|plane| ((plane.position - base).dot(normal), plane)).collect();
    placed.sort_by(|(a, _), (b, _)| a.total_cmp(b));

    let found = placed.len();
    let first_mm = placed[0].0;
    let extent_mm = placed[found - 1].0 - first_mm;
    if found < FEWEST_SLICES {
        causes.push(Cause::TooFewSlices { found, wanted: FEWEST_SLICES, extent_mm });
    }
    check_stack(&placed, normal, &mut causes);
    check_distances(&placed, normal, &mut causes);
    let n_gaps = found.saturating_sub(1).max(1);
    let spacing_mm = if found > 1 { extent_mm / n_gaps as f64 } else { 1.0 };
    let planes: Vec<Plane> = placed.into_iter().map(|(_, plane)| plane).collect();
    match grid(&planes[0], found, spacing_mm) {
        Ok(grid) if causes.is_empty() => Ok((planes, grid)),
        Ok(_) => Err(causes),
        Err(cause) => {
            // Slices at one place have no spacing; that has been said already.
            if !causes.iter().any(|cause| matches!(cause, Cause::DuplicatePosition { .. })) {
                causes.push(cause);
            }
            Err(causes)
        }
    }
}

/// Size, spacing, orientation and frame of reference of every slice are those of the first.
fn check_same_kind(planes: &[Plane], causes: &mut Vec<Cause>) {
    let first = &planes[0];
    let side_ok = |side: u16| (SMALLEST_SIDE..=LARGEST_SIDE).contains(&side);
    if !(side_ok(first.rows) && side_ok(first.columns)) {
        let (rows, columns) = (first.rows, first.columns);
        causes.push(Cause::MatrixSize { rows, columns, smallest: SMALLEST_SIDE, largest: LARGEST_SIDE });
    }
    if let Some(other) = planes.iter().find(|p| (p.rows, p.columns) != (first.rows, first.columns)) {
        causes.push(Cause::Matrix {
            instance: other.name.clone(),
            found: format!("{} x {}", other.rows, other.columns),
            wanted: format!("{} x {}", first.rows, first.columns),
        });
    }
    let spacing_differs = |p: &&Plane| {
        let both = p.pixel_spacing_mm.iter().zip(first.pixel_spacing_mm);
        // Over the largest matrix such a difference stays below the position tolerance.
        both.into_iter().any(|(a, b)| (a - b).abs() * f64::from(LARGEST_SIDE) > POSITION_TOLERANCE_MM)
    };
    if let Some(other) = planes.iter().find(spacing_differs) {
        let text = |p: &Plane| format!("{} x {}", p.pixel_spacing_mm[0], p.pixel_spacing_mm[1]);
        causes.push(Cause::PixelSpacing {
            instance: other.name.clone(),
            found: text(other),
            wanted: text(first),
        });
    }
    let turned = |p: &&Plane| direction_difference(p, first) > DIRECTION_TOLERANCE;
    if let Some(other) = planes.iter().find(turned) {
        let degrees = direction_difference(other, first).to_degrees();
        causes.push(Cause::Orientation { instance: other.name.clone(), degrees });
    }
    let mut frames: Vec<_> = planes.iter().map(|p| &p.frame_of_reference).collect();
    frames.sort();
    frames.dedup();
    if let Some(other) = planes.iter().find(|p| p.frame_of_reference != first.frame_of_reference) {
        causes.push(Cause::FramesOfReference { count: frames.len(), instance: other.name.clone() });
    }
    if let Some(other) = planes.iter().find(|p| p.study != first.study) {
        causes.push(Cause::TwoStudies { instance: other.name.clone() });
    }
    if let Some(other) = planes.iter().find(|p| p.patient != first.patient) {
        causes.push(Cause::TwoPatients { instance: other.name.clone() });
    }
}

fn direction_difference(a: &Plane, b: &Plane) -> f64 {
    let of = |u: PatientVector, v: PatientVector| (u + v * -1.0).length();
    of(a.row_direction, b.row_direction).max(of(a.column_direction, b.column_direction))
}

/// Row and column direction at unit length and exactly at right angles; `None` where they are too far from it.
fn directions(plane: &Plane) -> Option<(PatientVector, PatientVector)> {
    let (row, column) = (plane.row_direction, plane.column_direction);
    // 1e-3 is what Grid accepts; what comes with few decimals is within, a made-up orientation is not.
    let sound = (row.length() - 1.0).abs() < 1e-3
        && (column.length() - 1.0).abs() < 1e-3
        && row.dot(column).abs() < 1e-3;
    if !sound {
        return None;
    }
    let x = row * row.length().recip();
    let y = column + x * -x.dot(column);
    Some((x, y * y.length().recip()))
}

fn grid(first: &Plane, n_slices: usize, spacing_mm: f64) -> Result<Grid, Cause> {
    let (x, y) = directions(first).unwrap_or((first.row_direction, first.column_direction));
    let [between_rows, between_columns] = first.pixel_spacing_mm;
    let shape = [n_slices, usize::from(first.rows), usize::from(first.columns)];
    let spacing = [spacing_mm, between_rows, between_columns];
    Grid::new(shape, spacing, first.position, [x.cross(y), y, x]).map_err(|source| Cause::Grid { source })
}

/// The slices must lie straight above each other: a stack that leans is a tilted gantry.
fn check_stack(placed: &[(f64, Plane)], normal: PatientVector, causes: &mut Vec<Cause>) {
    let (first_mm, first) = &placed[0];
    let (last_mm, last) = &placed[placed.len() - 1];
    let lateral =
        |position: PatientPoint, along_mm: f64| (position - first.position) + normal * -(along_mm - first_mm);
    let lean = lateral(last.position, *last_mm);
    let extent_mm = last_mm - first_mm;
    if lean.length() > POSITION_TOLERANCE_MM && extent_mm > SAME_POSITION_MM {
        let degrees = (lean.length() / extent_mm).atan().to_degrees();
        causes.push(Cause::Sheared { degrees, tilt_degrees: first.tilt_degrees });
    }
    let per_mm = if extent_mm > SAME_POSITION_MM { lean * extent_mm.recip() } else { lean * 0.0 };
    let offset_of = |(along_mm, plane): &(f64, Plane)| {
        (lateral(plane.position, *along_mm) + per_mm * -(along_mm - first_mm)).length()
    };
    let offsets = placed.iter().map(|placed| (offset_of(placed), &placed.1.name));
    if let Some((offset_mm, name)) = offsets.max_by(|(a, _), (b, _)| a.total_cmp(b))
        && offset_mm > POSITION_TOLERANCE_MM
    {
        causes.push(Cause::Displaced { instance: name.clone(), offset_mm });
    }
}

/// The slices must lie at equal distances along the normal.
fn check_distances(placed: &[(f64, Plane)], normal: PatientVector, causes: &mut Vec<Cause>) {
    let n_gaps = placed.len() - 1;
    if n_gaps == 0 {
        return;
    }
    let gaps_mm: Vec<f64> = placed.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    // Positions in messages are distances along the normal from the patient's origin.
    let origin_mm = (placed[0].1.position - PatientPoint::lps_mm(0.0, 0.0, 0.0)).dot(normal) - placed[0].0;
    if let Some(idx) = gaps_mm.iter().position(|gap_mm| *gap_mm < SAME_POSITION_MM) {
        causes.push(Cause::DuplicatePosition {
            first: placed[idx].1.name.clone(),
            second: placed[idx + 1].1.name.clone(),
            position_mm: placed[idx].0 + origin_mm,
        });
        return;
    }
    let spacing_mm = (placed[n_gaps].0 - placed[0].0) / n_gaps as f64;
    let residual = |idx: usize| (placed[idx].0 - placed[0].0 - spacing_mm * idx as f64).abs();
    let worst = (0..placed.len()).max_by(|a, b| residual(*a).total_cmp(&residual(*b))).unwrap_or(0);
    if residual(worst) <= POSITION_TOLERANCE_MM {
        return;
    }
    let mut sorted = gaps_mm.clone();
    sorted.sort_by(f64::total_cmp);
    let usual_mm = sorted[n_gaps / 2];
    let multiple = |gap_mm: f64| (gap_mm / usual_mm).round();
    let whole = |gap_mm: f64| (gap_mm / usual_mm - multiple(gap_mm)).abs() <= GAP_TOLERANCE;
    let widest = gaps_mm.iter().position(|gap_mm| multiple(*gap_mm) >= 2.0);
    match widest {
        Some(idx) if gaps_mm.iter().all(|gap_mm| whole(*gap_mm) && multiple(*gap_mm) >= 1.0) => {
            causes.push(Cause::MissingSlices {
                below_mm: placed[idx].0 + origin_mm,
                above_mm: placed[idx + 1].0 + origin_mm,
                gap_mm: gaps_mm[idx],
                spacing_mm: usual_mm,
                n_missing: gaps_mm.iter().map(|gap_mm| multiple(*gap_mm) - 1.0).sum(),
            });
        }
        _ => causes.push(Cause::UnevenDistances {
            smallest_mm: sorted[0],
            largest_mm: sorted[n_gaps - 1],
            worst: placed[worst].1.name.clone(),
        }),
    }
}

//! What is known to be wrong in the atlases, or labelled otherwise than patients are drawn.

use ndarray::Array3;

use super::landmarks::middle_of;
use crate::vocabulary::organ::Organ;

/// How far below its top the cord is where it should be, and how far above the medulla is, mm: between, atlas 1 has
/// both up to 9 mm too far back.
const GOOD_MM: (f64, f64) = (15.0, 18.0);
/// No cord jumps so far from one slice to the next, mm: where one does, it has left the canal.
const JUMP_MM: f64 = 4.0;
/// Less than this is left alone, mm.
const SLIGHT_MM: f64 = 1.5;
/// From the top of the cord to the tip of the dens, mm (both atlases): up to there patients are drawn as cord (Brouwer et
/// al. 2015), the atlases as brain stem.
const DENS_MM: f64 = 14.0;
/// A brain stem from the tip of the dens up is no taller than this, mm (62 in the mean of 20 patients, see
/// `organ_sizes`); one that is reaches below.
const TALLEST_MM: f64 = 58.0;
/// Fluid, which takes the place of a cord that is moved.
const FLUID: u8 = 11;
/// Cortical and spongy bone: never overwritten.
const BONE: [u8; 2] = [6, 7];

/// Puts the top of the cord into its canal, and ends the brain stem at the tip of the dens.
pub(super) fn repair(labels: &mut Array3<u8>, tissues: &mut Array3<u8>, spacing_mm: [f64; 3]) {
    let (cord, stem) = (class(Organ::SpinalCord), class(Organ::BrainStem));
    let slices = 0..labels.dim().0;
    let Some(top) = slices.clone().rev().find(|z| middle_of(labels, *z, cord).is_some()) else { return };
    let of_stem = |z: &usize| middle_of(labels, *z, stem).is_some();
    let (Some(stem_low), Some(stem_high)) =
        (slices.clone().find(of_stem), slices.clone().rev().find(of_stem))
    else {
        return;
    };
    straighten(labels, tissues, spacing_mm, top);
    let tall_mm = (stem_high + 1 - stem_low) as f64 * spacing_mm[0];
    if tall_mm > TALLEST_MM && stem_low.abs_diff(top) as f64 * spacing_mm[0] < 4.0 {
        let tip = top as f64 + DENS_MM / spacing_mm[0];
        for z in slices.filter(|z| (*z as f64) < tip) {
            let mut plane = labels.index_axis_mut(ndarray::Axis(0), z);
            plane.mapv_inplace(|label| if label == stem { cord } else { label });
        }
    }
}

/// Moves cord and medulla onto the straight line between where both are right.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "slices and voxels of a volume in memory"
)]
fn straighten(labels: &mut Array3<u8>, tissues: &mut Array3<u8>, spacing_mm: [f64; 3], top: usize) {
    let (cord, stem) = (class(Organ::SpinalCord), class(Organ::BrainStem));
    let low = top.saturating_sub((GOOD_MM.0 / spacing_mm[0]) as usize);
    let high = (top + (GOOD_MM.1 / spacing_mm[0]) as usize).min(labels.dim().0 - 1);
    let (Some(from), Some(to)) = (middle_of(labels, low, cord), middle_of(labels, high, stem)) else {
        return;
    };
    let rows: Vec<f64> =
        (low..=top).filter_map(|z| Some(middle_of(labels, z, cord)?[0] * spacing_mm[1])).collect();
    if rows.windows(2).all(|pair| (pair[1] - pair[0]).abs() < JUMP_MM) {
        return;
    }
    for z in low + 1..high {
        let here = match (middle_of(labels, z, cord), middle_of(labels, z, stem)) {
            (Some(cord), None) => cord,
            (None, Some(stem)) => stem,
            (Some(a), Some(b)) => [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0],
            (None, None) => continue,
        };
        let share = (z - low) as f64 / (high - low) as f64;
        let wanted = from[0] + share * (to[0] - from[0]);
        let rows = (wanted - here[0]).round();
        // Only too far back is a fault that is known; a bent line further forward is a neck that is bent.
        if rows * spacing_mm[1] > -SLIGHT_MM {
            continue;
        }
        let rows = rows as isize;
        let plane = labels.index_axis(ndarray::Axis(0), z);
        let moved: Vec<(usize, usize, u8, u8)> = plane
            .indexed_iter()
            .filter(|(_, label)| **label == cord || **label == stem)
            .map(|((y, x), label)| (y, x, *label, tissues[[z, y, x]]))
            .collect();
        for (y, x, _, _) in &moved {
            labels[[z, *y, *x]] = 0;
            tissues[[z, *y, *x]] = FLUID;
        }
        for (y, x, label, tissue) in moved {
            let y = y.saturating_add_signed(rows);
            if y < labels.dim().1 && !BONE.contains(&tissues[[z, y, x]]) {
                labels[[z, y, x]] = label;
                tissues[[z, y, x]] = tissue;
            }
        }
    }
}

fn class(organ: Organ) -> u8 {
    organ as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cord at row 20 that jumps to row 27 for its uppermost 12 slices, under a brain stem of 76 slices at row 20, all
    /// with a mark at low x, on 1 mm.
    #[test]
    fn a_cord_that_jumps_is_put_back_and_the_stem_ends_at_the_dens() {
        let (cord, stem) = (class(Organ::SpinalCord), class(Organ::BrainStem));
        let mut labels = Array3::<u8>::zeros((140, 48, 40));
        let mut tissues = Array3::from_elem((140, 48, 40), 3_u8);
        for z in 0..136 {
            let (label, row) = match z {
                0..48 => (cord, 20),
                48..60 => (cord, 27),
                _ => (stem, 20),
            };
            labels.slice_mut(ndarray::s![z, row - 4..row + 5, 14..23]).fill(label);
            tissues.slice_mut(ndarray::s![z, row - 4..row + 5, 14..23]).fill(18);
        }
        let before = labels.iter().filter(|label| **label != 0).count();
        repair(&mut labels, &mut tissues, [1.0; 3]);
        assert_eq!(labels.iter().filter(|label| **label != 0).count(), before);
        for z in 0..136 {
            // From the top of the cord, 59, to the tip of the dens, 73, the stem has become cord.
            let label = if z < 73 { cord } else { stem };
            let [row, column] = middle_of(&labels, z, label).unwrap();
            assert!((row - 20.0).abs() < 1e-9 && (column - 18.0).abs() < 1e-9, "slice {z}: row {row}");
        }
        assert_eq!((tissues[[50, 30, 18]], tissues[[50, 20, 18]]), (FLUID, 18));
    }

    #[test]
    fn a_bent_neck_is_left_alone() {
        let (cord, stem) = (class(Organ::SpinalCord), class(Organ::BrainStem));
        let mut labels = Array3::<u8>::zeros((100, 60, 40));
        for z in 0..100_usize {
            let label = if z < 50 { cord } else { stem };
            labels[[z, 10 + z / 4, 18]] = label;
        }
        let mut tissues = labels.mapv(|_| 3);
        let before = labels.clone();
        repair(&mut labels, &mut tissues, [1.0; 3]);
        assert_eq!(labels, before);
    }
}

//! Specks and far pieces of a field go before it is traced.

use super::restore::ImageField;
use super::trace::THRESHOLD;
use crate::vocabulary::space::{Piece, pieces};

/// Which pieces of an organ are kept. The largest always is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PieceLimits {
    /// A piece smaller than this is a speck, mm3.
    pub smallest_mm3: f64,
    /// A piece further than this from the largest one (between their boxes) is doubtful, mm.
    pub far_mm: f64,
    /// A doubtful piece is kept only from this part of the largest one's volume on: classes with two sides have two
    /// large pieces.
    pub far_part: f64,
}

/// Sets the probability of unwanted pieces to zero. `spacing_mm` runs `(z, y, x)`.
pub(crate) fn keep_the_organ(field: &mut ImageField, limits: PieceLimits, spacing_mm: [f64; 3]) {
    let pieces = pieces(field.probability.mapv(|p| p >= THRESHOLD));
    let Some(largest) = pieces.iter().max_by_key(|piece| piece.voxels.len()) else { return };
    let voxel_mm3: f64 = spacing_mm.iter().product();
    for piece in &pieces {
        let volume_mm3 = number(piece.voxels.len()) * voxel_mm3;
        let far = distance_mm(piece, largest, spacing_mm) > limits.far_mm;
        let small_part = number(piece.voxels.len()) < limits.far_part * number(largest.voxels.len());
        let unwanted = volume_mm3 < limits.smallest_mm3 || (far && small_part);
        if unwanted && !std::ptr::eq(piece, largest) {
            for voxel in &piece.voxels {
                field.probability[*voxel] = 0.0;
            }
        }
    }
}

/// Distance between the boxes of two pieces.
fn distance_mm(a: &Piece, b: &Piece, spacing_mm: [f64; 3]) -> f64 {
    let gap = |axis: usize| {
        let voxels = b.low[axis].saturating_sub(a.high[axis]).max(a.low[axis].saturating_sub(b.high[axis]));
        number(voxels) * spacing_mm[axis]
    };
    (0..3).map(|axis| gap(axis).powi(2)).sum::<f64>().sqrt()
}

#[expect(clippy::cast_precision_loss, reason = "counts of voxels")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;
    use crate::vocabulary::space::VoxelBox;

    #[test]
    fn a_speck_and_a_far_crumb_go_a_second_side_stays() {
        let mut field = ImageField {
            region: VoxelBox::whole([6, 10, 60]),
            probability: Array3::from_elem([6, 10, 60], 0.1_f32),
        };
        let fill = |field: &mut ImageField, x: [usize; 2], y: [usize; 2]| {
            field.probability.slice_mut(s![1..4, y[0]..y[1], x[0]..x[1]]).fill(0.8);
        };
        fill(&mut field, [0, 10], [0, 8]); // the organ: 240 voxels
        fill(&mut field, [40, 50], [0, 7]); // its other side: 210 voxels, 31 columns away
        fill(&mut field, [55, 57], [0, 2]); // a far crumb: 12 voxels
        fill(&mut field, [12, 14], [0, 2]); // a near piece: 12 voxels
        field.probability[[5, 9, 30]] = 0.9; // a speck
        let limits = PieceLimits { smallest_mm3: 3.0, far_mm: 10.0, far_part: 0.1 };
        keep_the_organ(&mut field, limits, [1.5, 0.9, 1.1]);
        let kept = field.probability.iter().filter(|p| **p >= 0.5).count();
        assert_eq!(kept, 240 + 210 + 12);
        assert_eq!((field.probability[[2, 1, 13]], field.probability[[5, 9, 30]]), (0.8, 0.0));
    }
}

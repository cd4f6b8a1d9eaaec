//! What of a mask hangs together.

use ndarray::Array3;

/// A connected piece of a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its voxels `(z, y, x)`, in the order in which they were met.
    pub voxels: Vec<[usize; 3]>,
    /// Lowest index on each axis.
    pub low: [usize; 3],
    /// Highest index on each axis; a voxel of the piece has it.
    pub high: [usize; 3],
}

/// The pieces of a mask, axes `(z, y, x)`, by their first voxel. Voxels that touch at a face, an edge or a corner
/// belong to one piece. The mask is used up.
#[must_use]
pub fn pieces(mut left: Array3<bool>) -> Vec<Piece> {
    let (nz, ny, nx) = left.dim();
    let shape = [nz, ny, nx];
    let mut found = Vec::new();
    for start in ndarray::indices(left.dim()) {
        if !left[start] {
            continue;
        }
        let start = [start.0, start.1, start.2];
        left[start] = false;
        let mut piece = Piece { voxels: vec![start], low: start, high: start };
        let mut next = 0;
        while let Some(voxel) = piece.voxels.get(next).copied() {
            next += 1;
            let range = |axis: usize| voxel[axis].saturating_sub(1)..(voxel[axis] + 2).min(shape[axis]);
            for z in range(0) {
                for y in range(1) {
                    for x in range(2).filter(|x| std::mem::take(&mut left[[z, y, *x]])) {
                        piece.voxels.push([z, y, x]);
                    }
                }
            }
            for (axis, index) in voxel.into_iter().enumerate() {
                piece.low[axis] = piece.low[axis].min(index);
                piece.high[axis] = piece.high[axis].max(index);
            }
        }
        found.push(piece);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two bars that touch at a corner are one piece; the third is one voxel away.
    #[test]
    fn corners_hold_together_and_gaps_do_not() {
        let mut mask = Array3::from_elem([4, 5, 7], false);
        for at in [[0, 0, 0], [0, 0, 1], [1, 1, 2], [1, 1, 3], [3, 4, 6]] {
            mask[at] = true;
        }
        let found = pieces(mask);
        let sizes: Vec<usize> = found.iter().map(|piece| piece.voxels.len()).collect();
        assert_eq!(sizes, [4, 1]);
        assert_eq!((found[0].low, found[0].high), ([0, 0, 0], [1, 1, 3]));
        assert!(pieces(Array3::from_elem([2, 3, 4], false)).is_empty());
    }
}

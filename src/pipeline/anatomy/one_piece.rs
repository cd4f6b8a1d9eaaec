//! One organ, one piece.

use super::{Examined, Finding, cm3};
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, Piece, pieces};

/// A second piece of an organ that may have two, and a piece of a long organ, has at least this part of the largest.
const LEAST_SHARE: f64 = 0.1;

/// How the pieces of an organ may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In one piece.
    One,
    /// Both sides in one class, or two lobes whose bridge is thinner than a voxel.
    Two,
    /// A long organ: a gap leaves pieces above one another.
    Long,
}

fn form(organ: Organ) -> Form {
    match organ {
        Organ::BrachialPlexus | Organ::SublingualGland | Organ::Thyroid => Form::Two,
        Organ::SpinalCord | Organ::Trachea => Form::Long,
        _ => Form::One,
    }
}

/// Removes what hangs on nothing: all but the largest piece, or what [`Form`] allows.
pub(super) fn one_piece_each(examined: &mut Examined, grid: &Grid) {
    for n in 0..examined.masks.len() {
        for finding in keep(&mut examined.masks[n], grid).into_iter().flatten() {
            let organ = examined.masks[n].organ;
            examined.note(organ, finding);
        }
    }
}

fn keep(mask: &mut OrganMask, grid: &Grid) -> [Option<Finding>; 2] {
    let mut found = pieces(mask.probability.mapv(|p| p >= MASK_THRESHOLD));
    // Stable: of equal ones the first stays in front.
    found.sort_by_key(|piece| std::cmp::Reverse(piece.voxels.len()));
    let Some((largest, rest)) = found.split_first() else { return [None, None] };
    let least = LEAST_SHARE * largest.voxels.len() as f64;
    let mut kept = vec![largest];
    let mut removed: Vec<&Piece> = Vec::new();
    for piece in rest {
        let large = piece.voxels.len() as f64 >= least;
        let stays = match form(mask.organ) {
            Form::One => false,
            Form::Two => large && kept.len() < 2,
            Form::Long => large && kept.iter().all(|other| apart_in_height(piece, other)),
        };
        let list = if stays { &mut kept } else { &mut removed };
        list.push(piece);
    }
    let interrupted = (form(mask.organ) == Form::Long && kept.len() > 1).then_some(kept.len());
    let n_removed: usize = removed.iter().map(|piece| piece.voxels.len()).sum();
    for at in removed.iter().flat_map(|piece| &piece.voxels) {
        mask.probability[*at] = 0.0;
    }
    let removed =
        (n_removed > 0).then(|| Finding::PiecesRemoved { n: removed.len(), cm3: cm3(n_removed, grid) });
    [removed, interrupted.map(|n| Finding::Interrupted { n })]
}

fn apart_in_height(a: &Piece, b: &Piece) -> bool {
    a.low[0] > b.high[0] || b.low[0] > a.high[0]
}

#[cfg(test)]
mod tests {
    use super::super::bricks::{examined, grid, organ};
    use super::super::n_voxels;
    use super::*;

    fn kept(of: Organ, boxes: &[[std::ops::Range<usize>; 3]]) -> (usize, Vec<Finding>) {
        let mut found = examined(vec![organ(of, boxes)]);
        one_piece_each(&mut found, &grid());
        (n_voxels(&found.masks[0]), found.findings.remove(&of).unwrap_or_default())
    }

    const BODY: [std::ops::Range<usize>; 3] = [10..20, 10..18, 20..26];
    const OTHER: [std::ops::Range<usize>; 3] = [11..19, 10..17, 40..45];
    const CRUMB: [std::ops::Range<usize>; 3] = [30..32, 4..6, 5..8];

    /// 480, 280 and 12 voxels of 15 mm3.
    #[test]
    fn an_unpaired_organ_keeps_its_largest_piece_and_a_two_sided_one_keeps_two() {
        let (n, findings) = kept(Organ::Larynx, &[CRUMB, OTHER, BODY]);
        assert_eq!(n, 480);
        let [Finding::PiecesRemoved { n: 2, cm3 }] = findings[..] else { panic!("{findings:?}") };
        assert!((cm3 - 4.38).abs() < 1e-9);
        for of in [Organ::BrachialPlexus, Organ::SublingualGland, Organ::Thyroid] {
            assert_eq!(kept(of, &[CRUMB, OTHER, BODY]).0, 760);
            assert_eq!(kept(of, &[CRUMB, BODY]).0, 480, "a crumb is no second side");
        }
        assert_eq!(kept(Organ::Larynx, &[BODY]), (480, vec![]));
    }

    /// A cord with a gap stays whole; what lies beside it goes.
    #[test]
    fn a_cord_with_a_gap_is_marked_not_cut() {
        let cord = [[2..9, 20..24, 30..34], [11..30, 21..24, 30..34]];
        let (n, findings) =
            kept(Organ::SpinalCord, &[cord[0].clone(), cord[1].clone(), [15..20, 5..15, 50..54]]);
        assert_eq!(n, 7 * 16 + 19 * 12);
        assert!(matches!(findings[..], [Finding::PiecesRemoved { n: 1, .. }, Finding::Interrupted { n: 2 }]));
    }
}

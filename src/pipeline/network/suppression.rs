//! Non-maximum suppression.

use super::network_box::NetworkBox;

/// The places of the boxes that stay, in the order given, which is that of falling probability: a box goes when its
/// IoU with one that stays is at least `iou`; at most `most` stay.
#[must_use]
pub fn suppress(boxes: &[NetworkBox], iou: f32, most: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::new();
    for (place, candidate) in boxes.iter().enumerate() {
        if kept.len() == most {
            break;
        }
        if kept.iter().all(|other| boxes[*other].iou(*candidate) < iou) {
            kept.push(place);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moved along z by 2 of 8: IoU 6 / 10; by 4 of 8: 4 / 12. The third meets the second at 0.6, but that one is
    /// gone, and the first only at 1/3, so it stays.
    #[test]
    fn a_box_that_goes_takes_no_other_with_it() {
        let first = NetworkBox::from_array([10.0, 20.0, 30.0, 8.0, 6.0, 4.0]);
        let all = [first, NetworkBox { z: 12.0, ..first }, NetworkBox { z: 14.0, ..first }];
        assert_eq!(suppress(&all, 0.5, 9), [0, 2]);
        assert_eq!(suppress(&all, 0.7, 9), [0, 1, 2]);
        assert_eq!(suppress(&all, 0.7, 2), [0, 1]);
        assert!(suppress(&[], 0.5, 9).is_empty());
    }

    /// Exactly at the limit goes: half of one box is the other.
    #[test]
    fn an_overlap_at_the_limit_goes() {
        let first = NetworkBox::from_array([10.0, 20.0, 30.0, 8.0, 6.0, 4.0]);
        let half = NetworkBox { h: 3.0, y: 18.5, ..first };
        assert_eq!(suppress(&[first, half], 0.5, 9), [0]);
    }
}

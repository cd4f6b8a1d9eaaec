//! Closed rings of one plane: along the voxel edges of a mask, or at one half between the samples of a field.
//!
//! Both follow the same walk over the lattice of voxel corners, organ on the right hand, so that they agree on
//! what is connected: pixels that touch only at a corner are apart. Places are in voxels of the plane, x then y,
//! integer at voxel centres; an outer ring has positive area ([`super::polygon::area`]), a hole negative.

use geo::Coord;
use ndarray::ArrayView2;

use crate::pipeline::network::MASK_THRESHOLD;

/// A closed ring in a plane, voxels; the first point is not repeated.
pub(crate) type Ring = Vec<Coord<f64>>;

/// Where the field passes from organ to not organ.
pub const THRESHOLD: f32 = MASK_THRESHOLD;

/// A crossing keeps this far from the sample it lies beside, in voxels: a value of exactly one half would otherwise
/// put several crossings on one point, and rounding to DS could move it to the other side.
const LEAST_DISTANCE: f64 = 1e-3;

/// Rings along the voxel edges of a mask, axes `(y, x)`. Their enclosed area is exactly that of the pixels, every
/// ring is simple, and rings meet at corners at most.
pub(crate) fn along_voxel_edges(mask: ArrayView2<'_, bool>) -> Vec<Ring> {
    let inside = |y: isize, x: isize| at(&mask, y, x).is_some_and(|v| *v);
    let loops = walk(mask.dim(), inside);
    loops.into_iter().flat_map(split_at_repeated_corners).map(|corners| corner_ring(&corners)).collect()
}

/// Rings where a field crosses one half, axes `(y, x)`, interpolated linearly between neighbours; beyond its border
/// the field is zero. A pixel centre is inside exactly where the field is at least one half.
pub(crate) fn at_one_half(field: ArrayView2<'_, f32>) -> Vec<Ring> {
    let value = |y: isize, x: isize| at(&field, y, x).copied().unwrap_or(0.0);
    let loops = walk(field.dim(), |y, x| value(y, x) >= THRESHOLD);
    loops.into_iter().map(|edges| edges.into_iter().map(|edge| crossing(edge, &value)).collect()).collect()
}

fn at<'a, T>(plane: &'a ArrayView2<'_, T>, y: isize, x: isize) -> Option<&'a T> {
    plane.get((usize::try_from(y).ok()?, usize::try_from(x).ok()?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heading {
    East,
    South,
    West,
    North,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::East => Self::South,
            Self::South => Self::West,
            Self::West => Self::North,
            Self::North => Self::East,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }

    /// One step, `(y, x)`.
    fn step(self) -> (isize, isize) {
        match self {
            Self::East => (0, 1),
            Self::South => (1, 0),
            Self::West => (0, -1),
            Self::North => (-1, 0),
        }
    }
}

/// A voxel edge between a pixel of the organ (right hand) and one outside (left hand), starting at the corner above
/// and left of pixel `(y, x)`.
#[derive(Debug, Clone, Copy)]
struct Edge {
    y: isize,
    x: isize,
    heading: Heading,
}

impl Edge {
    /// Pixels `(y, x)` on the right and on the left hand.
    fn pixels(self) -> [(isize, isize); 2] {
        let Self { y, x, heading } = self;
        match heading {
            Heading::East => [(y, x), (y - 1, x)],
            Heading::South => [(y, x - 1), (y, x)],
            Heading::West => [(y - 1, x - 1), (y, x - 1)],
            Heading::North => [(y - 1, x), (y - 1, x - 1)],
        }
    }

    fn is_boundary(self, inside: &impl Fn(isize, isize) -> bool) -> bool {
        let [(right_y, right_x), (left_y, left_x)] = self.pixels();
        inside(right_y, right_x) && !inside(left_y, left_x)
    }

    /// The next edge: to the right first, which stays with the same pixel where two touch at this corner.
    fn next(self, inside: &impl Fn(isize, isize) -> bool) -> Self {
        let (dy, dx) = self.heading.step();
        let go = |heading| Self { y: self.y + dy, x: self.x + dx, heading };
        let right = go(self.heading.right());
        let straight = go(self.heading);
        if right.is_boundary(inside) {
            right
        } else if straight.is_boundary(inside) {
            straight
        } else {
            go(self.heading.left())
        }
    }
}

/// Every closed walk along the boundary of a plane of this shape `(y, x)`, as its unit edges in order.
fn walk((n_rows, n_columns): (usize, usize), inside: impl Fn(isize, isize) -> bool) -> Vec<Vec<Edge>> {
    let mut walked = vec![false; n_rows * n_columns];
    let mut loops = Vec::new();
    for row in 0..n_rows {
        for column in 0..n_columns {
            let (Ok(y), Ok(x)) = (isize::try_from(row), isize::try_from(column)) else { continue };
            let start = Edge { y, x, heading: Heading::East };
            if walked[row * n_columns + column] || !start.is_boundary(&inside) {
                continue;
            }
            let mut edges = Vec::new();
            let mut edge = start;
            loop {
                // Every closed walk has an edge to the east, so marking those is enough to find each walk once.
                if let (Heading::East, Ok(y), Ok(x)) =
                    (edge.heading, usize::try_from(edge.y), usize::try_from(edge.x))
                {
                    walked[y * n_columns + x] = true;
                }
                edges.push(edge);
                edge = edge.next(&inside);
                if (edge.y, edge.x, edge.heading) == (start.y, start.x, start.heading) {
                    break;
                }
            }
            loops.push(edges);
        }
    }
    loops
}

/// Cuts a walk that comes back to a corner (pixels of one piece touching at it) into walks that do not.
fn split_at_repeated_corners(edges: Vec<Edge>) -> Vec<Vec<Edge>> {
    let mut seen = std::collections::HashMap::with_capacity(edges.len());
    let mut open: Vec<Edge> = Vec::with_capacity(edges.len());
    let mut closed = Vec::new();
    for edge in edges {
        if let Some(start) = seen.insert((edge.y, edge.x), open.len()).filter(|s| *s < open.len()) {
            let piece = open.split_off(start);
            for gone in &piece {
                seen.remove(&(gone.y, gone.x));
            }
            seen.insert((edge.y, edge.x), start);
            closed.push(piece);
        }
        open.push(edge);
    }
    closed.push(open);
    closed
}

/// The corners where the walk turns.
#[expect(clippy::cast_precision_loss, reason = "rows and columns of an image")]
fn corner_ring(edges: &[Edge]) -> Ring {
    let before = edges.iter().cycle().skip(edges.len() - 1);
    edges
        .iter()
        .zip(before)
        .filter(|(edge, before)| edge.heading != before.heading)
        .map(|(edge, _)| Coord { x: edge.x as f64 - 0.5, y: edge.y as f64 - 0.5 })
        .collect()
}

/// Where the field crosses one half between the two pixels of an edge.
#[expect(clippy::cast_precision_loss, reason = "rows and columns of an image")]
fn crossing(edge: Edge, value: &impl Fn(isize, isize) -> f32) -> Coord<f64> {
    let [(y, x), (other_y, other_x)] = edge.pixels();
    let (inside, outside) = (f64::from(value(y, x)), f64::from(value(other_y, other_x)));
    let part =
        ((inside - f64::from(THRESHOLD)) / (inside - outside)).clamp(LEAST_DISTANCE, 1.0 - LEAST_DISTANCE);
    Coord { x: x as f64 + part * (other_x - x) as f64, y: y as f64 + part * (other_y - y) as f64 }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::super::polygon::area;
    use super::*;

    fn plane(rows: &[&str]) -> Array2<bool> {
        Array2::from_shape_fn((rows.len(), rows[0].len()), |(y, x)| rows[y].as_bytes()[x] == b'#')
    }

    fn areas(rings: &[Ring]) -> Vec<f64> {
        let mut areas: Vec<f64> = rings.iter().map(|ring| area(ring)).collect();
        areas.sort_by(f64::total_cmp);
        areas
    }

    #[test]
    fn one_pixel_is_a_square_around_its_centre() {
        let rings = along_voxel_edges(plane(&["...", "..#"]).view());
        let corners: Vec<_> = rings[0].iter().map(|c| (c.x, c.y)).collect();
        assert_eq!(corners, [(1.5, 0.5), (2.5, 0.5), (2.5, 1.5), (1.5, 1.5)]);
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_apart_and_a_hole_is_negative() {
        assert_eq!(areas(&along_voxel_edges(plane(&["#..", ".##"]).view())), [1.0, 2.0]);
        assert_eq!(areas(&along_voxel_edges(plane(&["####", "#..#", "####"]).view())), [-2.0, 12.0]);
    }

    /// The piece closes on itself only through a corner: one walk, but a ring must not meet itself.
    #[test]
    fn a_piece_that_bites_its_tail_gives_simple_rings() {
        let rings = along_voxel_edges(plane(&["###", "#.#", "##.", "##."]).view());
        for ring in &rings {
            for (i, a) in ring.iter().enumerate() {
                assert!(!ring[i + 1..].contains(a), "{ring:?} passes {a:?} twice");
            }
        }
        assert_eq!(areas(&rings).iter().sum::<f64>(), 9.0);
    }

    /// By hand: from 0.9 to 0.1 the half lies midway; from 0.9 to the zero outside at (0.9 - 0.5) / 0.9 = 0.444.
    #[test]
    fn a_field_is_cut_between_its_samples() {
        let rings = at_one_half(array![[0.9_f32, 0.1]].view());
        let right = rings[0].iter().map(|c| c.x).fold(f64::MIN, f64::max);
        let left = rings[0].iter().map(|c| c.x).fold(f64::MAX, f64::min);
        assert!((right - 0.5).abs() < 1e-6 && (left + 0.4444).abs() < 1e-3, "{left} {right}");
        assert_eq!(at_one_half(array![[0.5_f32]].view())[0].len(), 4);
    }
}

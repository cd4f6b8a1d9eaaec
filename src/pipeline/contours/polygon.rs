//! Rings of one plane put in order: which hole lies in which ring, and how a hole is written.

use geo::Coord;

use super::trace::Ring;

/// How a hole leaves as contours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoleForm {
    /// Joined to its outer ring by a channel of no width (PS3.3 C.8.8.6.3): the same under every reader's rule.
    Keyhole,
    /// A ring of its own; all rings of an ROI with holes are CLOSEDPLANAR_XOR.
    Xor,
    /// A ring of its own; all rings are CLOSED_PLANAR, and a reader that joins rings fills the hole.
    Separate,
}

/// Why a text names no form of holes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("holes are written as keyhole, xor or separate; found {0:?}")]
pub struct InvalidHoleForm(String);

impl std::str::FromStr for HoleForm {
    type Err = InvalidHoleForm;

    fn from_str(text: &str) -> Result<Self, InvalidHoleForm> {
        match text {
            "keyhole" => Ok(Self::Keyhole),
            "xor" => Ok(Self::Xor),
            "separate" => Ok(Self::Separate),
            _ => Err(InvalidHoleForm(text.to_owned())),
        }
    }
}

/// An outer ring (positive area) with its holes (negative area).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Polygon {
    pub(crate) outer: Ring,
    pub(crate) holes: Vec<Ring>,
}

/// Signed area in voxels; positive where x to y is the sense of rotation.
pub(crate) fn area(ring: &[Coord<f64>]) -> f64 {
    edges(ring).map(|(a, b)| a.x * b.y - b.x * a.y).sum::<f64>() / 2.0
}

/// Edges of a closed ring, the last back to the first point.
pub(crate) fn edges(ring: &[Coord<f64>]) -> impl Iterator<Item = (Coord<f64>, Coord<f64>)> + '_ {
    ring.iter().copied().zip(ring.iter().copied().cycle().skip(1))
}

/// Gives every hole to the smallest outer ring around it.
pub(crate) fn assemble(rings: Vec<Ring>) -> Vec<Polygon> {
    let (outers, holes): (Vec<Ring>, Vec<Ring>) = rings.into_iter().partition(|ring| area(ring) > 0.0);
    let mut polygons: Vec<Polygon> =
        outers.into_iter().map(|outer| Polygon { outer, holes: Vec::new() }).collect();
    for hole in holes {
        let place = place_on(&hole);
        let around = polygons
            .iter_mut()
            .filter(|polygon| contains(&polygon.outer, place))
            .min_by(|a, b| area(&a.outer).total_cmp(&area(&b.outer)));
        if let Some(polygon) = around {
            polygon.holes.push(hole);
        }
    }
    polygons
}

/// A place on the first edge of a ring that no other ring touches: rings meet at corners only, and corners of voxel
/// edges are whole voxels apart.
fn place_on(ring: &[Coord<f64>]) -> Coord<f64> {
    let (a, b) = (ring[0], ring[1]);
    let length = (b.x - a.x).hypot(b.y - a.y);
    a + (b - a) * (0.5_f64.min(length / 2.0) / length)
}

/// Whether a place off the ring lies inside it (even-odd).
pub(crate) fn contains(ring: &[Coord<f64>], place: Coord<f64>) -> bool {
    edges(ring)
        .filter(|(a, b)| (a.y <= place.y) != (b.y <= place.y))
        .filter(|(a, b)| a.x + (place.y - a.y) / (b.y - a.y) * (b.x - a.x) > place.x)
        .count()
        % 2
        == 1
}

/// The rings to write for a polygon.
pub(crate) fn rings_of(polygon: Polygon, form: HoleForm) -> Vec<Ring> {
    match form {
        HoleForm::Keyhole => vec![keyhole(polygon)],
        HoleForm::Xor | HoleForm::Separate => std::iter::once(polygon.outer).chain(polygon.holes).collect(),
    }
}

/// Joins holes to the outer ring by horizontal channels of no width.
///
/// From its leftmost point each hole reaches left along the row until it meets the ring; taken from left to right,
/// what it meets is the outer ring or a hole already joined. Horizontal channels between voxel edges never pass a
/// voxel centre, so no rule of filling can see them.
fn keyhole(polygon: Polygon) -> Ring {
    let Polygon { mut outer, mut holes } = polygon;
    let leftmost = |ring: &Ring| {
        ring.iter()
            .copied()
            .enumerate()
            .min_by(|(_, a), (_, b)| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)))
    };
    let key = |ring: &Ring| leftmost(ring).map_or((0.0, 0.0), |(_, p)| (p.x, p.y));
    holes.sort_by(|a, b| {
        let ((ax, ay), (bx, by)) = (key(a), key(b));
        ax.total_cmp(&bx).then(ay.total_cmp(&by))
    });
    for hole in holes {
        let Some((first, start)) = leftmost(&hole) else { continue };
        let Some((after, meeting)) = meet_to_the_left(&outer, start) else { continue };
        let mut detour = vec![meeting];
        detour.extend(hole[first..].iter().chain(&hole[..first]));
        detour.push(start);
        detour.push(meeting);
        let end = after + 1;
        drop(outer.splice(end..end, detour));
        outer.dedup();
        if outer.first() == outer.last() {
            outer.pop();
        }
    }
    outer
}

/// The nearest point of the ring to the left of a place on the same row, and the index of the edge it lies on.
fn meet_to_the_left(ring: &[Coord<f64>], from: Coord<f64>) -> Option<(usize, Coord<f64>)> {
    edges(ring)
        .enumerate()
        .filter_map(|(index, (a, b))| {
            let (low, high) = if a.y <= b.y { (a, b) } else { (b, a) };
            if from.y < low.y || from.y > high.y {
                return None;
            }
            let flat = high.y - low.y <= 0.0;
            let x = if flat {
                if a.x.max(b.x) <= from.x { a.x.max(b.x) } else { a.x.min(b.x) }
            } else {
                low.x + (from.y - low.y) / (high.y - low.y) * (high.x - low.x)
            };
            (x <= from.x).then_some((index, Coord { x, y: from.y }))
        })
        .max_by(|(_, a), (_, b)| a.x.total_cmp(&b.x))
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::super::trace::along_voxel_edges;
    use super::*;

    fn polygons(rows: &[&str]) -> Vec<Polygon> {
        let mask = Array2::from_shape_fn((rows.len(), rows[0].len()), |(y, x)| rows[y].as_bytes()[x] == b'#');
        assemble(along_voxel_edges(mask.view()))
    }

    #[test]
    fn an_island_in_a_hole_is_a_polygon_of_its_own_and_holes_find_their_ring() {
        let rows = ["#######.", "#.....#.", "#.###.#.", "#.#.#.#.", "#.###.#.", "#.....#.", "#######."];
        let mut found: Vec<(f64, Vec<f64>)> = polygons(&rows)
            .iter()
            .map(|p| (area(&p.outer), p.holes.iter().map(|h| area(h)).collect()))
            .collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(found, [(9.0, vec![-1.0]), (49.0, vec![-25.0])]);
    }

    /// Two holes in one row: the second channel must end on the first hole.
    #[test]
    fn keyholes_keep_the_area_and_join_everything() {
        let [polygon] = polygons(&["########", "#.##..##", "####.###", "########"]).try_into().unwrap();
        assert_eq!(polygon.holes.len(), 2);
        let rings = rings_of(polygon.clone(), HoleForm::Keyhole);
        assert_eq!((rings.len(), area(&rings[0])), (1, 28.0));
        assert_eq!(rings_of(polygon, HoleForm::Separate).len(), 3);
    }
}

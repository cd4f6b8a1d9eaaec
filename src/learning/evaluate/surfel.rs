//! How much surface passes between eight voxels.
//!
//! Source: Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy for radiotherapy", and its
//! published package `surface-distance`: marching cubes through the middles of the edges between inside and outside.
//! The areas here are made from that construction, no table is taken over; a test checks all 256 against the package. Marching cubes leaves two things open, and there we do as the package does: [`OTHER_SIDE`] and
//! [`ODD_INNER`].

/// Area of the surface for each of the 256 ways in which eight voxels can be inside, mm2.
///
/// Bits as in `Padded::corners`; `spacing_mm` is `(z, y, x)`.
pub(super) fn surfel_areas_mm2(spacing_mm: [f64; 3]) -> [f64; 256] {
    std::array::from_fn(|code| {
        let side = cut_off(u8::try_from(code).expect("256 codes"));
        pieces(side).map(|piece| polygon_area(&polygon(piece), piece, spacing_mm)).sum()
    })
}

/// Four voxels inside, three in a corner of a face and one alone, where the surface goes round the four others.
/// Written for the side without the lowest voxel.
const OTHER_SIDE: [u8; 6] = [30, 54, 57, 86, 89, 120];

/// Four voxels in a bent chain, where the middle triangle of the six-sided surface touches the edge of that inner voxel
/// whose `z + y + x` is odd, not even. Written for the side without the lowest voxel.
const ODD_INNER: [u8; 3] = [39, 71, 83];

/// The voxels that the surface cuts off, each piece on its own: the fewer of inside and outside.
fn cut_off(code: u8) -> u8 {
    if code.count_ones() != 4 {
        return if code.count_ones() < 4 { code } else { !code };
    }
    let side = if code & 128 == 0 { code } else { !code };
    if OTHER_SIDE.contains(&side) { !side } else { side }
}

/// Voxel `n` of the eight: bits of `n` are its `z`, `y`, `x`.
fn holds(code: u8, n: usize) -> bool {
    code & (128 >> n) != 0
}

/// The parts of the set that hang together through faces.
fn pieces(code: u8) -> impl Iterator<Item = u8> {
    let mut left = code;
    std::iter::from_fn(move || {
        let first = (0..8).find(|n| holds(left, *n))?;
        let mut piece = 128_u8 >> first;
        for _ in 0..8 {
            for n in (0..8).filter(|n| holds(piece, *n)).collect::<Vec<_>>() {
                piece |= [1, 2, 4].into_iter().fold(0, |all, axis| all | 128 >> (n ^ axis)) & left;
            }
        }
        left &= !piece;
        Some(piece)
    })
}

/// An edge of the cube that leaves the piece: a voxel inside and its neighbour outside.
type Crossing = [usize; 2];

/// The edges that leave the piece, as the surface meets them going round.
fn polygon(piece: u8) -> Vec<Crossing> {
    let inside = (0..8_usize).filter(|n| holds(piece, *n));
    let mut left: Vec<Crossing> = inside
        .flat_map(|n| [1, 2, 4].map(|axis| [n, n ^ axis]))
        .filter(|[_, outside]| !holds(piece, *outside))
        .collect();
    // Two edges follow each other where they lie on one face: all four ends agree in one bit.
    let on_a_face = |a: Crossing, b: Crossing| {
        let (all, any) = (a[0] & a[1] & b[0] & b[1], a[0] | a[1] | b[0] | b[1]);
        all != 0 || any != 7
    };
    let mut round: Vec<Crossing> = left.pop().into_iter().collect();
    while let Some(last) = round.last().copied()
        && let Some(next) = left.iter().position(|other| on_a_face(last, *other))
    {
        round.push(left.swap_remove(next));
    }
    round
}

/// Area of the polygon through the middles of the edges, cut into triangles.
///
/// Up to four corners lie in a plane. Of five, the one that alone belongs to its voxel is cut off and the rest lies in
/// a plane. Six are three ears round a triangle, which takes every other corner.
fn polygon_area(round: &[Crossing], piece: u8, spacing_mm: [f64; 3]) -> f64 {
    let alone = |n: usize| round.iter().filter(|[inside, _]| *inside == round[n][0]).count() == 1;
    let odd = ODD_INNER.contains(&piece);
    let wanted = |n: &usize| alone(*n) && (round.len() == 5 || (round[*n][0].count_ones() % 2 == 1) == odd);
    let first = (0..round.len()).find(wanted).unwrap_or(0);
    let corner = |n: usize| middle(round[(first + n) % round.len()], spacing_mm);
    let area = |[a, b, c]: [usize; 3]| triangle_area([corner(a), corner(b), corner(c)]);
    match round.len() {
        3 => area([0, 1, 2]),
        4 => area([0, 1, 2]) + area([0, 2, 3]),
        5 => area([4, 0, 1]) + area([1, 2, 3]) + area([1, 3, 4]),
        _ => area([0, 2, 4]) + area([0, 1, 2]) + area([2, 3, 4]) + area([4, 5, 0]),
    }
}

/// The middle of an edge, mm from voxel 0 along `(z, y, x)`.
fn middle([a, b]: Crossing, spacing_mm: [f64; 3]) -> [f64; 3] {
    let along = |axis: usize| ((a >> (2 - axis) & 1) + (b >> (2 - axis) & 1)) as f64 / 2.0;
    std::array::from_fn(|axis| along(axis) * spacing_mm[axis])
}

fn triangle_area([a, b, c]: [[f64; 3]; 3]) -> f64 {
    let side = |to: [f64; 3]| -> [f64; 3] { std::array::from_fn(|axis| to[axis] - a[axis]) };
    let (u, v) = (side(b), side(c));
    let cross = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    cross.iter().map(|part| part * part).sum::<f64>().sqrt() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand with 2 x 3 x 4 mm: half of the eight is a rectangle; one voxel a triangle with legs 1, 1.5 and 2;
    /// two along x a rectangle of 4 by the diagonal of 1 and 1.5; a bent three half a face of 3 x 4 and a trapezoid.
    #[test]
    fn areas_by_hand() {
        let areas = surfel_areas_mm2([2.0, 3.0, 4.0]);
        let near = |code: usize, wanted: f64| {
            assert!((areas[code] - wanted).abs() < 1e-12, "{code}: {}", areas[code])
        };
        near(0, 0.0);
        near(255, 0.0);
        near(0b1111_0000, 12.0);
        near(0b1010_1010, 6.0);
        let one = ((1.0_f64 * 1.5).powi(2) + (1.5_f64 * 2.0).powi(2) + (1.0_f64 * 2.0).powi(2)).sqrt() / 2.0;
        near(1, one);
        near(254, one);
        near(0b0001_1000, 2.0 * one);
        near(3, 4.0 * (1.0_f64 + 2.25).sqrt());
        // The trapezoid: (1, 3, 0) to (1, 0, 4), 5 mm, and (0, 3, 2) to (0, 1.5, 4), half of it, 1.2 mm apart in the plane.
        let height = (1.0_f64 + 1.2 * 1.2).sqrt();
        near(0b1110_0000, 6.0 + (5.0 + 2.5) / 2.0 * height);
    }

    /// Made by `tests/reference/evaluation.py`, which asks the package.
    #[test]
    fn areas_are_those_of_the_package() {
        let text = include_str!("../../../tests/reference/evaluation.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        let wanted = reference["surfel_areas_mm2"].as_array().unwrap();
        assert_eq!(wanted.len(), 256);
        for (code, found) in surfel_areas_mm2([2.5, 0.9, 1.3]).into_iter().enumerate() {
            let wanted = wanted[code].as_f64().unwrap();
            assert!((found - wanted).abs() < 1e-9, "{code}: {found}, the package {wanted}");
        }
    }

    /// The surface between inside and outside is the same from both sides, and no way of standing has none.
    #[test]
    fn both_sides_have_one_surface() {
        let areas = surfel_areas_mm2([2.5, 0.9, 1.3]);
        for code in 1..255 {
            assert!(areas[code] > 0.0, "{code}");
            assert!((areas[code] - areas[255 - code]).abs() < 1e-12, "{code}");
        }
    }
}

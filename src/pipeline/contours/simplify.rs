//! Fewer points within a tolerance, without rings that cross themselves or each other.

use geo::{Coord, Line, line_intersection::line_intersection};

use super::polygon::{area, edges};
use super::trace::Ring;

/// Drops points from all rings of one plane so that no dropped point lies further than `tolerance_mm` from the ring
/// that stays (Douglas and Peucker 1973). `spacing_mm` is that of the plane, `(y, x)`.
///
/// Where the shortened rings would cross or turn over, the tolerance is halved, four times at most; then the rings
/// stay as they are.
pub(crate) fn simplify(rings: Vec<Ring>, tolerance_mm: f64, spacing_mm: [f64; 2]) -> Vec<Ring> {
    let mut tolerance = tolerance_mm;
    for _ in 0..5 {
        if tolerance <= 0.0 {
            break;
        }
        let shorter: Vec<Ring> = rings.iter().map(|ring| shorten(ring, tolerance, spacing_mm)).collect();
        let same_sense = rings.iter().zip(&shorter).all(|(a, b)| area(a) * area(b) > 0.0);
        if same_sense && !any_crossing(&shorter) {
            return shorter;
        }
        tolerance /= 2.0;
    }
    rings
}

fn shorten(ring: &Ring, tolerance_mm: f64, [sy, sx]: [f64; 2]) -> Ring {
    if ring.len() < 5 {
        return ring.clone();
    }
    let mm = |c: Coord<f64>| Coord { x: c.x * sx, y: c.y * sy };
    let far = (0..ring.len()).max_by(|a, b| {
        let distance = |i: usize| {
            let d = mm(ring[i]) - mm(ring[0]);
            d.x.hypot(d.y)
        };
        distance(*a).total_cmp(&distance(*b))
    });
    let far = far.unwrap_or(ring.len() / 2);
    let closed: Ring = ring.iter().chain(ring.first()).copied().collect();
    let mut keep = vec![false; closed.len()];
    (keep[0], keep[far]) = (true, true);
    let mut open = vec![(0, far), (far, ring.len())];
    while let Some((start, end)) = open.pop() {
        let (a, b) = (mm(closed[start]), mm(closed[end]));
        let worst = (start + 1..end)
            .map(|i| (i, distance_to_segment(mm(closed[i]), a, b)))
            .max_by(|(_, d), (_, e)| d.total_cmp(e));
        if let Some((i, distance)) = worst
            && distance > tolerance_mm
        {
            keep[i] = true;
            open.extend([(start, i), (i, end)]);
        }
    }
    let shorter: Ring = ring.iter().zip(&keep).filter(|(_, k)| **k).map(|(c, _)| *c).collect();
    if shorter.len() < 3 { ring.clone() } else { shorter }
}

fn distance_to_segment(p: Coord<f64>, a: Coord<f64>, b: Coord<f64>) -> f64 {
    let (ab, ap) = (b - a, p - a);
    let length2 = ab.x * ab.x + ab.y * ab.y;
    let part = if length2 > 0.0 { ((ap.x * ab.x + ap.y * ab.y) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (ap.x - part * ab.x).hypot(ap.y - part * ab.y)
}

/// Whether two edges of these rings meet anywhere but at the corner that neighbours share.
fn any_crossing(rings: &[Ring]) -> bool {
    let mut lines: Vec<(usize, usize, usize, Line<f64>)> = Vec::new();
    for (which, ring) in rings.iter().enumerate() {
        lines.extend(edges(ring).enumerate().map(|(i, (a, b))| (which, i, ring.len(), Line::new(a, b))));
    }
    let low = |l: &Line<f64>| l.start.y.min(l.end.y);
    let high = |l: &Line<f64>| l.start.y.max(l.end.y);
    lines.sort_by(|a, b| low(&a.3).total_cmp(&low(&b.3)));
    lines.iter().enumerate().any(|(k, (ring, i, n, line))| {
        lines[k + 1..].iter().take_while(|(.., other)| low(other) <= high(line)).any(|(r, j, _, other)| {
            let neighbours = ring == r && ((i + 1) % n == *j || (j + 1) % n == *i);
            !neighbours && line_intersection(*line, *other).is_some()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_keeps_its_area_with_fewer_points() {
        let circle: Ring = (0..200)
            .map(|i| f64::from(i) * std::f64::consts::TAU / 200.0)
            .map(|a| Coord { x: 20.0 + 9.0 * a.cos(), y: 15.0 + 9.0 * a.sin() })
            .collect();
        let before = area(&circle);
        let after = simplify(vec![circle], 0.1, [0.8, 1.1]);
        assert!(after[0].len() < 60, "{} points", after[0].len());
        assert!((area(&after[0]) / before - 1.0).abs() < 0.02, "{}", area(&after[0]) / before);
    }

    /// Two rings 0.1 mm apart: a tolerance of 1 mm would put the chord of one through the other.
    #[test]
    fn close_rings_do_not_come_to_cross() {
        let wave = |offset: f64| -> Ring {
            let upper = (0..60).map(|i| f64::from(i) * 0.5).map(|x| Coord { x, y: (x * 0.7).sin() + offset });
            let lower = (0..60).rev().map(|i| f64::from(i) * 0.5);
            upper.chain(lower.map(|x| Coord { x, y: (x * 0.7).sin() + offset + 0.4 })).collect()
        };
        let rings = simplify(vec![wave(0.0), wave(0.5)], 1.0, [1.0, 1.0]);
        assert!(!any_crossing(&rings));
    }
}

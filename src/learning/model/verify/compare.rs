//! Our arrays beside the original's: row by row where there are rows, whatever their order.

use std::fmt;

use super::{Array, Arrays};
use crate::pipeline::network::NetworkBox;
use crate::vocabulary::organ::Organ;

/// How far two arrays are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Which array.
    pub name: String,
    /// Sides expected.
    pub shape: Vec<usize>,
    /// What was found, `Err` where the two cannot be compared or a row has no partner.
    pub largest: Result<Largest, String>,
    /// What else there is to say.
    pub note: String,
    /// Share of a mask's voxels that are inside in one and outside in the other; zero for other arrays.
    pub other_voxels: f64,
}

/// The largest difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Largest {
    /// Of one element.
    pub absolute: f64,
    /// That, over the largest magnitude of the expected array.
    pub relative: f64,
}

/// Of a thousand voxels of a mask, one may change sides.
const MOST_OTHER_VOXELS: f64 = 1e-3;

impl Difference {
    /// Whether it is more than so much of the array's largest magnitude, or cannot be told, or a mask is another one.
    #[must_use]
    pub fn is_beyond(&self, tolerance: f64) -> bool {
        self.other_voxels > MOST_OTHER_VOXELS
            || self.largest.as_ref().map_or(true, |l| l.relative.is_nan() || l.relative > tolerance)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16} {:>22} ", self.name, format!("{:?}", self.shape))?;
        match &self.largest {
            Ok(largest) => write!(f, "{:12.3e} {:12.3e}", largest.absolute, largest.relative)?,
            Err(why) => f.write_str(why)?,
        }
        if self.note.is_empty() { Ok(()) } else { write!(f, "  {}", self.note) }
    }
}

/// What our network gave, with all that is needed to find the partner of an expected row.
#[derive(Debug, Clone, PartialEq)]
pub struct Ours {
    /// The arrays, in the archive's form.
    pub arrays: Arrays,
    /// As `detections`, with the boxes of an organ that are not its best.
    pub refined: Array,
}

/// Compares every expected array but the volume. `classes` are the organs of the original's classes, from class one.
///
/// Rows are matched by what they say (boxes by their numbers, masks by their class), not by their place; a proposal that
/// stands on the edge of a threshold may be missing in one of the two. Sides of one do not count.
#[must_use]
pub fn differences(expected: &Arrays, ours: &Ours, classes: &[Organ], tolerance: f64) -> Vec<Difference> {
    let compare = Compare { expected, ours, classes, tolerance, pairs: None };
    let compare = Compare { pairs: compare.proposal_pairs(), ..compare };
    expected
        .iter()
        .filter(|(name, _)| *name != "volume_hu")
        .map(|(name, wanted)| {
            let mut difference = Difference {
                name: name.to_owned(),
                shape: wanted.shape.clone(),
                largest: Ok(Largest { absolute: 0.0, relative: 0.0 }),
                note: String::new(),
                other_voxels: 0.0,
            };
            difference.largest = compare.one(name, wanted, &mut difference);
            difference
        })
        .collect()
}

/// The columns of a row of boxes: `(batch, probability, z, y, x, d, h, w)`.
const PROBABILITY: usize = 1;
const BOX: std::ops::Range<usize> = 2..8;

/// Which of our rows is which expected one, and what has no partner.
#[derive(Debug, Clone, PartialEq)]
struct Pairs {
    /// Expected row, our row.
    rows: Vec<(usize, usize)>,
    /// Rows without partner that no threshold explains, in words.
    lost: Vec<String>,
    /// How many rows without partner stand on the edge of a threshold.
    on_edge: usize,
}

struct Compare<'a> {
    expected: &'a Arrays,
    ours: &'a Ours,
    classes: &'a [Organ],
    tolerance: f64,
    pairs: Option<Pairs>,
}

impl Compare<'_> {
    fn one(&self, name: &str, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        match name {
            "proposals" => self.proposals(wanted, into),
            "rcnn_logits" | "rcnn_deltas" => self.of_proposals(name, wanted, into),
            "detections" => self.detections(wanted, into),
            "crop_boxes" => self.crop_boxes(wanted, into),
            "rpn_logits" | "rpn_deltas" => whole(wanted, &self.per_anchor(name, wanted, into)?),
            _ => match name.strip_prefix("mask_logits_") {
                Some(number) => self.mask(number, wanted, into),
                None => whole(wanted, self.found(name)?),
            },
        }
    }

    fn found(&self, name: &str) -> Result<&Array, String> {
        self.ours.arrays.get(name).ok_or_else(|| "this model gives no such array".to_owned())
    }

    /// Our map, or where the original has one row per anchor (positions z, y, x outermost), our map in that order.
    fn per_anchor(&self, name: &str, wanted: &Array, into: &mut Difference) -> Result<Array, String> {
        let found = self.found(name)?;
        let [1, channels, d, h, w] = found.shape[..] else {
            return Err("no map of five axes here".to_owned());
        };
        let per_anchor = if name == "rpn_deltas" { 6 } else { 1 };
        let rows = d * h * w * channels / per_anchor;
        if sides(wanted) != sides(&Array { shape: vec![rows, per_anchor], values: Vec::new() }) {
            return Ok(found.clone());
        }
        into.note = "one row per anchor".to_owned();
        let positions = d * h * w;
        let values = (0..rows * per_anchor).map(|at| {
            let (position, channel) = (at / channels, at % channels);
            found.values[channel * positions + position]
        });
        Ok(Array { shape: wanted.shape.clone(), values: values.collect() })
    }

    /// Partners of the expected proposals; `None` where none are expected.
    fn proposal_pairs(&self) -> Option<Pairs> {
        let wanted = self.expected.get("proposals").and_then(|array| rows_of(array, 8).ok())?;
        let found = self.ours.arrays.get("proposals").and_then(|array| rows_of(array, 8).ok())?;
        let magnitude = magnitude(wanted.iter().flat_map(|row| &row[BOX]));
        Some(pair(&wanted, &found, self.tolerance * magnitude, self.tolerance))
    }

    fn proposals(&self, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        let found = self.found("proposals")?;
        let (wanted, found) = (rows_of(wanted, 8)?, rows_of(found, 8)?);
        let pairs = self.pairs.as_ref().ok_or("rows of 8 numbers are wanted")?;
        into.note = pairs.note();
        pairs.complete()?;
        let rows: Vec<_> = pairs.rows.iter().map(|(a, b)| (wanted[*a], found[*b])).collect();
        difference_of_boxes(&rows)
    }

    /// Rows that belong to proposals, in the order of the expected ones; columns in the order of the original's classes.
    fn of_proposals(&self, name: &str, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        let found = self.found(name)?;
        let per_class = if name == "rcnn_deltas" { 6 } else { 1 };
        let width = (1 + self.classes.len()) * per_class;
        let ours = (1 + Organ::COUNT) * per_class;
        let (wanted, found) = (rows_of(wanted, width)?, rows_of(found, ours)?);
        let straight = || {
            let same = wanted.len() == found.len();
            let other = || format!("{} rows here, and no `proposals` to tell which are which", found.len());
            same.then(|| (0..found.len()).map(|row| (row, row)).collect()).ok_or_else(other)
        };
        let rows = self.pairs.as_ref().map_or_else(straight, |pairs| Ok(pairs.rows.clone()))?;
        if rows.len() < wanted.len() {
            into.note = format!("{} rows of {}", rows.len(), wanted.len());
        }
        if rows.is_empty() && !wanted.is_empty() {
            return Err("no row has a partner".to_owned());
        }
        let column = |at: usize| self.class(at / per_class).unwrap_or_default() * per_class + at % per_class;
        let elements =
            rows.iter().flat_map(|(a, b)| (0..width).map(|at| (&wanted[*a][at], &found[*b][column(at)])));
        difference(elements)
    }

    /// Our class number of one of the original's.
    fn class(&self, theirs: usize) -> Option<usize> {
        if theirs == 0 { Some(0) } else { self.classes.get(theirs - 1).map(|organ| organ.class()) }
    }

    /// The class at the end of a row, in our numbers.
    fn class_of(&self, row: &[f32]) -> Result<usize, String> {
        let number = row.last().copied().unwrap_or(f32::NAN);
        let known = (1..=self.classes.len()).find(|class| (number - small(*class)).abs() < 0.5);
        known.and_then(|class| self.class(class)).ok_or_else(|| format!("a class {number}, which is none"))
    }

    fn detections(&self, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        let wanted = rows_of(wanted, 9)?;
        let mut wanted: Vec<(usize, &[f32])> =
            wanted.into_iter().map(|row| Ok((self.class_of(row)?, row))).collect::<Result<_, String>>()?;
        wanted.sort_by_key(|(class, _)| *class);
        let several = wanted.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let found = if several { &self.ours.refined } else { self.found("detections")? };
        into.note = if several { "with boxes that are not the best of their organ" } else { "" }.to_owned();
        let mut free = rows_of(found, 9)?;
        let mut partners = Vec::new();
        for (class, row) in &wanted {
            let of_class = (0..free.len()).filter(|at| (free[*at][8] - small(*class)).abs() < 0.5);
            let to = |at: &usize| apart(&free[*at][BOX], &row[BOX]);
            let nearest = of_class.min_by(|a, b| to(a).total_cmp(&to(b)));
            let nearest = nearest.ok_or_else(|| format!("{} is not found here", organ(*class)))?;
            partners.push((*row, free.remove(nearest)));
        }
        if let Some(more) = free.first() {
            let count = free.len();
            return Err(format!("{count} more here, the first {}", organ_of_row(more)));
        }
        difference_of_boxes(&partners)
    }

    fn crop_boxes(&self, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        let (wanted, found) = (rows_of(wanted, 8)?, rows_of(self.found("crop_boxes")?, 8)?);
        let mut pairs = Vec::new();
        for row in &wanted {
            let class = self.class_of(row)?;
            let partner = found.iter().find(|own| (own[7] - small(class)).abs() < 0.5);
            let partner = partner.ok_or_else(|| format!("{} is not found here", organ(class)))?;
            pairs.push((*row, *partner));
        }
        if found.len() > wanted.len() {
            into.note = format!("{} more here", found.len() - wanted.len());
        }
        difference(pairs.iter().flat_map(|(a, b)| a[..7].iter().zip(&b[..7])))
    }

    /// Mask `number` belongs to row `number` of the expected crop boxes, or detections, or else to our own order.
    fn mask(&self, number: &str, wanted: &Array, into: &mut Difference) -> Result<Largest, String> {
        let number: usize = number.parse().map_err(|_no_number| "no such mask".to_owned())?;
        let table = [("crop_boxes", 8), ("detections", 9)].into_iter().find_map(|(name, width)| {
            let rows = self.expected.get(name).and_then(|array| rows_of(array, width).ok())?;
            rows.get(number).map(|row| self.class_of(row))
        });
        let boxes = rows_of(self.found("crop_boxes")?, 8)?;
        let at = match table {
            Some(class) => {
                let class = class?;
                into.note = organ(class);
                boxes.iter().position(|row| (row[7] - small(class)).abs() < 0.5)
            }
            None => Some(number),
        };
        let found = at.and_then(|at| self.ours.arrays.get(&format!("mask_logits_{at}")));
        let found = found.ok_or("no such mask here")?;
        let largest = whole(wanted, found)?;
        let others =
            wanted.values.iter().zip(&found.values).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
        into.other_voxels = others as f64 / wanted.values.len().max(1) as f64;
        into.note = format!("{} {:.3} % of voxels equal", into.note, 100.0 * (1.0 - into.other_voxels));
        Ok(largest)
    }
}

impl Pairs {
    fn complete(&self) -> Result<(), String> {
        match self.lost.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(format!("{} rows without partner, the first {first}", self.lost.len())),
        }
    }

    fn note(&self) -> String {
        let moved = self.rows.windows(2).filter(|pair| pair[1].1 < pair[0].1).count();
        let order = if moved == 0 { String::new() } else { "in another order ".to_owned() };
        let edge = if self.on_edge == 0 {
            String::new()
        } else {
            format!("{} on the edge of a threshold in one of the two", self.on_edge)
        };
        order + &edge
    }
}

/// Each expected row with the nearest of ours within `reach`, the same place first.
///
/// A row without partner is excused where its probability, or its overlap with a row of the other list, is within
/// `edge` of one half: there rounding decides.
fn pair(wanted: &[&[f32]], found: &[&[f32]], reach: f64, edge: f64) -> Pairs {
    let mut free: Vec<usize> = (0..found.len()).collect();
    let (mut rows, mut alone) = (Vec::new(), Vec::new());
    for (at, row) in wanted.iter().enumerate() {
        let to = |own: &usize| apart(&found[*own][BOX], &row[BOX]);
        let same_place = free.iter().position(|own| *own == at && to(own) <= reach);
        let nearest =
            same_place.or_else(|| (0..free.len()).min_by(|a, b| to(&free[*a]).total_cmp(&to(&free[*b]))));
        match nearest.filter(|near| to(&free[*near]) <= reach) {
            Some(near) => rows.push((at, free.remove(near))),
            None => alone.push(("expected", at, *row)),
        }
    }
    alone.extend(free.iter().map(|own| ("ours", *own, found[*own])));
    let excused = |(whose, _, row): &(&str, usize, &[f32])| {
        let others = if *whose == "ours" { wanted } else { found };
        let near_half = |value: f32| f64::from((value - 0.5).abs()) <= edge;
        near_half(row[PROBABILITY])
            || others.iter().any(|other| near_half(network_box(row).iou(network_box(other))))
    };
    let (on_edge, lost): (Vec<_>, Vec<_>) = alone.into_iter().partition(excused);
    let words = lost.into_iter().map(|(whose, at, row)| format!("{whose} row {at} {row:?}")).collect();
    Pairs { rows, lost: words, on_edge: on_edge.len() }
}

fn network_box(row: &[f32]) -> NetworkBox {
    NetworkBox::from_array(std::array::from_fn(|at| row[2 + at]))
}

/// Largest difference of two rows, as far as both go.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

fn rows_of(array: &Array, width: usize) -> Result<Vec<&[f32]>, String> {
    let given = array.shape.last().copied().unwrap_or_default();
    if given != width && !array.values.is_empty() {
        return Err(format!("rows of {width} numbers are wanted"));
    }
    Ok(array.values.chunks(width).collect())
}

fn sides(array: &Array) -> Vec<usize> {
    array.shape.iter().copied().filter(|side| *side != 1).collect()
}

fn whole(wanted: &Array, found: &Array) -> Result<Largest, String> {
    if sides(wanted) != sides(found) {
        return Err(format!("sides {:?} here", found.shape));
    }
    difference(wanted.values.iter().zip(&found.values))
}

fn magnitude<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    values.map(|value| f64::from(value.abs())).fold(0.0, f64::max)
}

/// Of pairs (expected, found).
fn difference<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)> + Clone) -> Result<Largest, String> {
    if pairs.clone().any(|(a, b)| a.is_nan() || b.is_nan()) {
        return Err("holds what is no number".to_owned());
    }
    let absolute = pairs.clone().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let magnitude = magnitude(pairs.map(|(a, _)| a));
    let relative = if absolute > 0.0 { absolute / magnitude } else { 0.0 };
    Ok(Largest { absolute, relative })
}

/// Of rows of boxes: of their numbers and of their probabilities, each over its own largest magnitude.
fn difference_of_boxes(rows: &[(&[f32], &[f32])]) -> Result<Largest, String> {
    let of = |columns: std::ops::Range<usize>| {
        difference(rows.iter().flat_map(move |(a, b)| a[columns.clone()].iter().zip(&b[columns.clone()])))
    };
    let (boxes, probabilities) = (of(BOX)?, of(PROBABILITY..PROBABILITY + 1)?);
    Ok(Largest {
        absolute: boxes.absolute.max(probabilities.absolute),
        relative: boxes.relative.max(probabilities.relative),
    })
}

fn small(class: usize) -> f32 {
    u16::try_from(class).map_or(f32::NAN, f32::from)
}

fn organ(class: usize) -> String {
    Organ::from_class(class).map_or_else(|| format!("class {class}"), |organ| organ.paper_name().to_owned())
}

fn organ_of_row(row: &[f32]) -> String {
    let class =
        (1..=Organ::COUNT).find(|class| row.last().is_some_and(|last| (last - small(*class)).abs() < 0.5));
    class.map_or_else(|| "of no organ".to_owned(), organ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[f32]) -> Array {
        Array { shape: shape.to_vec(), values: values.to_vec() }
    }

    fn table(rows: &[&[f32]]) -> Array {
        Array { shape: vec![rows.len(), rows[0].len()], values: rows.concat() }
    }

    fn arrays(all: &[(&str, Array)]) -> Arrays {
        Arrays::of(all.iter().map(|(name, array)| ((*name).to_owned(), array.clone())))
    }

    fn compared(expected: &Arrays, found: Arrays, refined: Array) -> Vec<Difference> {
        differences(expected, &Ours { arrays: found, refined }, &Organ::ALL, 1e-3)
    }

    fn none() -> Array {
        array(&[0, 9], &[])
    }

    /// 0.5 off where the largest is -10: 5 %.
    #[test]
    fn differences_are_relative_to_the_largest_magnitude() {
        let expected = arrays(&[
            ("f2", array(&[1, 3], &[1.0, -10.0, 2.0])),
            ("f4", array(&[2], &[1.0, 2.0])),
            ("f8", array(&[1], &[1.0])),
            ("volume_hu", array(&[1], &[1.0])),
        ]);
        let found = arrays(&[("f2", array(&[3], &[1.5, -10.0, 2.0])), ("f4", array(&[3], &[1.0, 2.0, 3.0]))]);
        let all = compared(&expected, found, none());
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].largest, Ok(Largest { absolute: 0.5, relative: 0.05 }));
        assert!(!all[0].is_beyond(0.06) && all[0].is_beyond(0.04));
        assert!(all[1].is_beyond(1e9) && all[2].is_beyond(1e9));
    }

    const A: [f32; 8] = [0.0, 0.9, 10.0, 20.0, 30.0, 8.0, 16.0, 24.0];
    const B: [f32; 8] = [0.0, 0.8, 40.0, 50.0, 60.0, 8.0, 16.0, 24.0];

    /// The two rows in another order, and the logits of each with it.
    #[test]
    fn rows_are_found_wherever_they_stand() {
        let logits = |first: f32, second: f32| {
            let mut values = vec![0.25; 58];
            (values[0], values[29]) = (first, second);
            array(&[2, 29], &values)
        };
        let expected = arrays(&[("proposals", table(&[&A, &B])), ("rcnn_logits", logits(5.0, 7.0))]);
        let found = arrays(&[("proposals", table(&[&B, &A])), ("rcnn_logits", logits(7.0, 5.0))]);
        let all = compared(&expected, found, none());
        assert!(all.iter().all(|one| !one.is_beyond(1e-9)), "{all:?}");
        assert!(all[0].note.contains("another order"));
        let found = arrays(&[("proposals", table(&[&B, &A])), ("rcnn_logits", logits(5.0, 7.0))]);
        assert!(compared(&expected, found, none())[1].is_beyond(0.2));
        // A probability that is off by a tenth is not lost among coordinates of sixty.
        let mut other = A;
        other[1] = 0.8;
        let found = arrays(&[("proposals", table(&[&other, &B]))]);
        assert!(compared(&expected, found, none())[0].is_beyond(0.1));
    }

    #[test]
    fn a_row_more_is_told_unless_a_threshold_decides() {
        let expected = arrays(&[("proposals", table(&[&A]))]);
        let with =
            |more: &[f32; 8]| compared(&expected, arrays(&[("proposals", table(&[&A, more]))]), none());
        let lost = with(&B);
        assert!(
            lost[0].is_beyond(1e9) && lost[0].largest.as_ref().unwrap_err().contains("ours row 1"),
            "{lost:?}"
        );
        // A probability of one half, then an overlap of one half: 8 slices moved by a third of 8.
        let weak = [0.0, 0.500_2, 40.0, 50.0, 60.0, 8.0, 16.0, 24.0];
        let half = [0.0, 0.7, 10.0 + 8.0 / 3.0, 20.0, 30.0, 8.0, 16.0, 24.0];
        for more in [weak, half] {
            let all = with(&more);
            assert!(!all[0].is_beyond(1e-9) && all[0].note.contains("1 on the edge"), "{all:?}");
        }
    }

    #[test]
    fn detections_and_masks_go_by_their_class() {
        let row = |of: &[f32; 8], class: f32| [&of[..], &[class]].concat();
        let (eye, larynx) = (row(&A, 6.0), row(&B, 9.0));
        let crops: [[f32; 8]; 2] =
            [[0.0, 8.0, 8.0, 8.0, 16.0, 16.0, 16.0, 9.0], [0.0, 0.0, 0.0, 0.0, 8.0, 8.0, 8.0, 6.0]];
        let mask = |sign: f32| array(&[1, 2, 2], &[sign, sign, -sign, 2.0 * sign]);
        let expected = arrays(&[
            ("detections", table(&[&larynx, &eye])),
            ("crop_boxes", table(&[&crops[0], &crops[1]])),
            ("mask_logits_0", mask(1.0)),
            ("mask_logits_1", mask(-1.0)),
        ]);
        let found = |second: f32| {
            arrays(&[
                ("detections", table(&[&eye, &larynx])),
                ("crop_boxes", table(&[&crops[1], &crops[0]])),
                ("mask_logits_0", mask(-1.0)),
                ("mask_logits_1", mask(second)),
            ])
        };
        let all = compared(&expected, found(1.0), none());
        assert!(all.iter().all(|one| !one.is_beyond(1e-9)), "{all:?}");
        assert!(all[2].note.contains("Larynx 100.000 %"), "{}", all[2].note);
        // All voxels change sides; a wide tolerance does not hide it.
        assert!(compared(&expected, found(-1.0), none())[2].is_beyond(1e9));
        // Two boxes of one organ: the original gave all that its suppression left.
        let other = row(&[0.0, 0.6, 12.0, 60.0, 30.0, 8.0, 16.0, 24.0], 6.0);
        let expected = arrays(&[("detections", table(&[&eye, &other, &larynx]))]);
        let all = compared(&expected, found(1.0), table(&[&eye, &other, &larynx]));
        assert!(!all[0].is_beyond(1e-9), "{all:?}");
        assert!(compared(&expected, found(1.0), table(&[&eye, &larynx]))[0].is_beyond(1e9));
        // One organ that was not expected.
        let expected = arrays(&[("detections", table(&[&eye]))]);
        assert!(compared(&expected, found(1.0), none())[0].largest.as_ref().unwrap_err().contains("Larynx"));
    }

    /// A network of two organs in an order of its own: class 1 is our mandible (12), class 2 our brain stem (2).
    #[test]
    fn classes_of_another_order_are_translated() {
        let mut ours = vec![0.0; 29];
        (ours[0], ours[12], ours[2]) = (0.5, 1.5, 2.5);
        let expected = arrays(&[("rcnn_logits", array(&[1, 3], &[0.5, 1.5, 2.5]))]);
        let found = Ours { arrays: arrays(&[("rcnn_logits", array(&[1, 29], &ours))]), refined: none() };
        let all = differences(&expected, &found, &[Organ::Mandible, Organ::BrainStem], 1e-3);
        assert!(!all[0].is_beyond(1e-9), "{all:?}");
    }

    /// 12 channels of 2 x 1 x 1 positions, and the same as 24 rows: position outermost.
    #[test]
    fn maps_may_come_as_rows_of_anchors() {
        let map: Vec<f32> = (0..24).map(|at| at as f32).collect();
        let rows: Vec<f32> = (0..24).map(|at| ((at % 12) * 2 + at / 12) as f32).collect();
        let expected = arrays(&[("rpn_logits", array(&[1, 24, 1], &rows))]);
        let all = compared(&expected, arrays(&[("rpn_logits", array(&[1, 12, 2, 1, 1], &map))]), none());
        assert!(!all[0].is_beyond(1e-9), "{all:?}");
    }
}

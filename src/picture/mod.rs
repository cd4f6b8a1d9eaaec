//! What a person looks at: CT with contours as PNG.
//!
//! Comes in: a CT volume and masks on its grid. Goes out: one sheet with axial, coronal and sagittal views, in the
//! patient's own axes however the patient lay in the scanner; right is on the left, as radiologists look.

mod canvas;
mod view;

use std::collections::BTreeMap;

use canvas::Canvas;
use view::{View, draw};

use crate::pipeline::volume::HuVolume;
use crate::vocabulary::space::{RegionMask, VoxelPoint};

/// One structure to draw.
#[derive(Debug, Clone)]
pub struct Outline {
    /// Text beside its color.
    pub legend: String,
    /// Red, green, blue.
    pub color: [u8; 3],
    /// Its voxels on the volume's grid; may be empty.
    pub mask: RegionMask,
    /// The known truth, drawn in white dashes.
    pub truth: Option<RegionMask>,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Nothing to show.
    #[error("no structure has a voxel: there is nothing to show")]
    Empty,
    /// The encoder.
    #[error("the picture cannot be encoded")]
    Encode(#[from] png::EncodingError),
}

/// Most pixels of a view on its longer side.
const VIEW_PIXELS: f64 = 560.0;
/// Room round the structures, mm.
const MARGIN_MM: f64 = 22.0;
const GAP: usize = 8;
const LEGEND_PIXELS: usize = 330;
const LINE: usize = 18;

/// A PNG: six axial, three coronal and three sagittal views at the heights of the structures, and a legend.
///
/// # Errors
/// [`PictureError`].
pub fn sheet(
    volume: &HuVolume,
    outlines: &[Outline],
    title: &str,
    notes: &[String],
) -> Result<Vec<u8>, PictureError> {
    let boxes: Vec<[[f64; 2]; 3]> = outlines.iter().filter_map(|outline| extent(volume, outline)).collect();
    let Some(whole) = boxes
        .iter()
        .copied()
        .reduce(|a, b| std::array::from_fn(|axis| [a[axis][0].min(b[axis][0]), a[axis][1].max(b[axis][1])]))
    else {
        return Err(PictureError::Empty);
    };
    let shown = whole.map(|[low, high]| [low - MARGIN_MM, high + MARGIN_MM]);
    let longest = shown.iter().map(|[low, high]| high - low).fold(0.0, f64::max);
    let mm_per_pixel = longest / VIEW_PIXELS;
    let heights = |axis: usize, count: usize| {
        let mut middles: Vec<f64> = boxes.iter().map(|b| (b[axis][0] + b[axis][1]) / 2.0).collect();
        middles.sort_by(f64::total_cmp);
        let pick = move |n: usize| middles[(2 * n + 1) * middles.len() / (2 * count)];
        (0..count).map(pick).collect::<Vec<f64>>()
    };
    let mut views: Vec<View> = Vec::new();
    for z in heights(2, 6).into_iter().rev() {
        views.push(View::axial(z, shown, mm_per_pixel));
    }
    views.extend(heights(1, 3).into_iter().map(|y| View::coronal(y, shown, mm_per_pixel)));
    views.extend(heights(0, 3).into_iter().map(|x| View::sagittal(x, shown, mm_per_pixel)));

    let row_heights: Vec<usize> =
        views.chunks(3).map(|row| row.iter().map(|view| view.height).max().unwrap_or(0)).collect();
    let cell = views.iter().map(|view| view.width).max().unwrap_or(0);
    let top = 2 * LINE + GAP;
    let height = row_heights.iter().map(|h| h + GAP).sum::<usize>() + top;
    let legend_height = top + (outlines.len() + notes.len() + 3) * LINE;
    let mut canvas = Canvas::new(3 * (cell + GAP) + LEGEND_PIXELS, height.max(legend_height));
    canvas.text(GAP, GAP, title, [255, 255, 255]);
    canvas.text(GAP, GAP + LINE, "Research software: not for clinical use without review.", [255, 190, 90]);
    let mut y0 = top;
    for (row, row_height) in views.chunks(3).zip(row_heights) {
        for (column, view) in row.iter().enumerate() {
            draw(&mut canvas, [column * (cell + GAP), y0], view, volume, outlines);
        }
        y0 += row_height + GAP;
    }
    legend(&mut canvas, 3 * (cell + GAP) + GAP, top, outlines, notes);
    Ok(canvas.png()?)
}

/// Most pixels of a close-up's view on its longer side.
const CLOSEUP_PIXELS: f64 = 260.0;
/// Room round the structure in a close-up, mm.
const CLOSEUP_MARGIN_MM: f64 = 16.0;
/// Shortest side of a view in a close-up, mm.
const CLOSEUP_LEAST_MM: f64 = 80.0;

/// A PNG: an axial, a coronal and a sagittal view round one structure and its truth, where the two differ most.
///
/// # Errors
/// [`PictureError`].
pub fn closeup(volume: &HuVolume, outline: &Outline) -> Result<Vec<u8>, PictureError> {
    let whole = extent(volume, outline).ok_or(PictureError::Empty)?;
    let longest = whole.iter().map(|[low, high]| high - low).fold(0.0, f64::max) + 2.0 * CLOSEUP_MARGIN_MM;
    // A thin structure gets room beside it, so that a person sees where it is and the labels fit.
    let least = CLOSEUP_LEAST_MM.max(0.55 * longest);
    let shown = whole.map(|[low, high]| {
        let (middle, half) = ((low + high) / 2.0, ((high - low) / 2.0 + CLOSEUP_MARGIN_MM).max(least / 2.0));
        [middle - half, middle + half]
    });
    let mm_per_pixel = longest.max(least) / CLOSEUP_PIXELS;
    let [x, y, z] = most_different(volume, outline).ok_or(PictureError::Empty)?;
    let views = [
        View::axial(z, shown, mm_per_pixel),
        View::coronal(y, shown, mm_per_pixel),
        View::sagittal(x, shown, mm_per_pixel),
    ];
    let width = views.iter().map(|view| view.width).sum::<usize>() + 2 * GAP;
    let mut canvas = Canvas::new(width, views.iter().map(|view| view.height).max().unwrap_or(1));
    let mut left = 0;
    for view in &views {
        draw(&mut canvas, [left, 0], view, volume, std::slice::from_ref(outline));
        left += view.width + GAP;
    }
    Ok(canvas.png()?)
}

/// Along each patient axis `[x, y, z]` the 2 mm in which most voxels are in one mask only; where none are, the
/// structure is thickest there.
fn most_different(volume: &HuVolume, outline: &Outline) -> Option<[f64; 3]> {
    const BIN_MM: f64 = 2.0;
    let truth = outline.truth.as_ref().unwrap_or(&outline.mask);
    let mut counts: [BTreeMap<i64, (usize, usize)>; 3] = Default::default();
    for (mask, other) in [(&outline.mask, truth), (truth, &outline.mask)] {
        for ((z, y, x), _) in mask.voxels.indexed_iter().filter(|(_, inside)| **inside) {
            let [z, y, x] = [z + mask.region.start[0], y + mask.region.start[1], x + mask.region.start[2]];
            let differs = usize::from(!other.contains([z, y, x]));
            let p = volume.grid.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
            for (bins, mm) in counts.iter_mut().zip([p.x, p.y, p.z]) {
                #[expect(clippy::cast_possible_truncation, reason = "a place in a patient, in bins of 2 mm")]
                let bin = bins.entry((mm / BIN_MM).round() as i64).or_default();
                *bin = (bin.0 + differs, bin.1 + 1);
            }
        }
    }
    let fullest = |bins: &BTreeMap<i64, (usize, usize)>| {
        bins.iter().max_by_key(|(_, count)| **count).map(|(bin, _)| *bin as f64 * BIN_MM)
    };
    let [x, y, z] = counts.each_ref().map(fullest);
    Some([x?, y?, z?])
}

fn legend(canvas: &mut Canvas, x: usize, top: usize, outlines: &[Outline], notes: &[String]) {
    let mut y = top;
    for outline in outlines {
        canvas.fill([x, y + 2], [12, 10], outline.color);
        let is_empty = outline.mask.n_voxels() == 0;
        canvas.text(x + 20, y + 3, &outline.legend, if is_empty { [120; 3] } else { [230; 3] });
        y += LINE;
    }
    y += LINE;
    if outlines.iter().any(|outline| outline.truth.is_some()) {
        canvas.text(x, y, "white dots: the known truth", [255; 3]);
        y += LINE;
    }
    for note in notes {
        canvas.text(x, y, note, [170; 3]);
        y += LINE;
    }
}

/// Bounding box of a structure and its truth in the patient, `[x, y, z]`, low and high, mm.
fn extent(volume: &HuVolume, outline: &Outline) -> Option<[[f64; 2]; 3]> {
    let mut found = [[f64::MAX, f64::MIN]; 3];
    for mask in [Some(&outline.mask), outline.truth.as_ref()].into_iter().flatten() {
        if mask.region.is_empty() {
            continue;
        }
        for corner in 0..8_usize {
            let side = |axis: usize| {
                let index =
                    if corner >> axis & 1 == 0 { mask.region.start[axis] } else { mask.region.end[axis] };
                index as f64 - 0.5
            };
            let p = volume.grid.patient_from_voxel(VoxelPoint { z: side(0), y: side(1), x: side(2) });
            for (axis, mm) in [p.x, p.y, p.z].into_iter().enumerate() {
                found[axis] = [found[axis][0].min(mm), found[axis][1].max(mm)];
            }
        }
    }
    (found[0][0] <= found[0][1]).then_some(found)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::space::{Grid, PatientPoint};

    /// A prone patient: the image's columns run to the patient's right, its rows to anterior. A structure at the
    /// patient's left front must appear on the right and at the top of the axial view.
    #[test]
    fn a_structure_appears_where_it_is_in_the_patient() {
        use crate::vocabulary::space::PatientVector;
        let directions = [
            PatientVector::lps(0.0, 0.0, 1.0),
            PatientVector::lps(0.0, -1.0, 0.0),
            PatientVector::lps(-1.0, 0.0, 0.0),
        ];
        let grid =
            Grid::new([30, 60, 80], [3.0, 2.0, 2.0], PatientPoint::lps_mm(80.0, 60.0, 0.0), directions)
                .unwrap();
        let mask = |centre: PatientPoint| {
            let whole = Array3::from_shape_fn([30, 60, 80], |(z, y, x)| {
                let v = VoxelPoint { z: z as f64, y: y as f64, x: x as f64 };
                grid.patient_from_voxel(v).distance_mm(centre) < 9.0
            });
            RegionMask::from_whole(whole.view())
        };
        let outlines = [
            ([255, 0, 0], PatientPoint::lps_mm(50.0, -30.0, 40.0)),
            ([0, 255, 0], PatientPoint::lps_mm(-40.0, 30.0, 45.0)),
        ]
        .map(|(color, centre)| Outline {
            legend: "x".into(),
            color,
            mask: mask(centre),
            truth: None,
        });
        let volume = HuVolume { hu: Array3::from_elem([30, 60, 80], 0), grid: grid.clone() };
        let png = sheet(&volume, &outlines, "test", &[]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        let width = frame.width as usize;
        let shown = [[-71.0, 81.0], [-61.0, 61.0], [9.0, 76.0]];
        // The first row holds the upper axial views; mean place of each pure color in the first view.
        let mean = |color: [u8; 3]| {
            let (mut n, mut sum) = (0.0, [0.0; 2]);
            for (i, pixel) in pixels.chunks(3).enumerate() {
                let (x, y) = (i % width, i / width);
                if pixel == color && x < 500 && y < 520 {
                    n += 1.0;
                    sum = [sum[0] + x as f64, sum[1] + y as f64];
                }
            }
            assert!(n > 10.0, "{color:?} is not drawn; shown {shown:?}");
            sum.map(|sum| sum / n)
        };
        let (red, green) = (mean([255, 0, 0]), mean([0, 255, 0]));
        assert!(red[0] > green[0] + 100.0 && red[1] < green[1] - 50.0, "{red:?} {green:?}");
    }

    /// Truth and mask share a column of voxels; the mask has a plate at one height more, where the axial view must cut.
    #[test]
    fn a_closeup_cuts_where_the_masks_differ() {
        let grid = Grid::axial([20, 24, 28], [3.0, 2.0, 2.0], PatientPoint::lps_mm(0.0, 0.0, 100.0)).unwrap();
        let column = |z: usize, y: usize, x: usize| (2..18).contains(&z) && y == 12 && x == 14;
        let plate = |z: usize, y: usize, x: usize| z == 15 && (8..12).contains(&y) && (5..14).contains(&x);
        let mask = |inside: &dyn Fn(usize, usize, usize) -> bool| {
            RegionMask::from_whole(Array3::from_shape_fn([20, 24, 28], |(z, y, x)| inside(z, y, x)).view())
        };
        let volume = HuVolume { hu: Array3::from_elem([20, 24, 28], 40), grid };
        let outline = Outline {
            legend: String::new(),
            color: [255, 0, 0],
            mask: mask(&|z, y, x| column(z, y, x) || plate(z, y, x)),
            truth: Some(mask(&column)),
        };
        let [_, y, z] = most_different(&volume, &outline).unwrap();
        assert!((z - 145.0).abs() <= 1.0 && (16.0..=22.0).contains(&y), "{y} {z}");
        let png = closeup(&volume, &outline).unwrap();
        assert!(png.starts_with(b"\x89PNG"));
        let empty = Outline { mask: mask(&|_, _, _| false), truth: None, ..outline };
        assert!(matches!(closeup(&volume, &empty), Err(PictureError::Empty)));
    }

    #[test]
    fn without_structures_there_is_no_picture() {
        let grid = Grid::axial([2, 3, 4], [1.0; 3], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        let volume = HuVolume { hu: Array3::zeros([2, 3, 4]), grid };
        assert!(matches!(sheet(&volume, &[], "t", &[]), Err(PictureError::Empty)));
    }
}

//! Pictures and cost of synthetic patients, beside real ones on the same grid.
//!
//! `cargo run --release --example bench_synthetic -- OUT_DIR ATLAS... [--real OPENKBP_PART] [--n 6] [--anatomy 40]`
//!
//! Writes `all.png` (everything varied), one sheet per switch (that one alone) and `real.png`; one row per patient:
//! three axial, two coronal and two sagittal planes of the starter preset's crop. Prints CPU seconds per sample.
//! `--anatomy N` draws N patients without scanner effects instead and prints how far organs are from each other, and their volumes.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pixels of a picture")]

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2, Axis};
use oarlock::learning::dataset::{
    AugmentSettings, LabelAtlas, OrganSet, Sample, SampleGrid, draw_sample, list_open_kbp,
};
use oarlock::settings::Synthetic;
use oarlock::vocabulary::organ::Organ;
use rand::SeedableRng;
use rand_pcg::Pcg64;

const SPACING_MM: [f64; 3] = [3.0, 2.5, 2.5];
const SHAPE: [usize; 3] = [96, 80, 96];
/// HU of black, and white less black.
const WINDOW: (f32, f32) = (-400.0, 900.0);
/// Pixels per voxel.
const ZOOM: usize = 2;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let out: PathBuf = args.next().ok_or("name a folder to write to")?.into();
    let (mut atlases, mut real, mut n, mut measured) = (Vec::new(), None, 6_u64, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--real" => real = args.next(),
            "--anatomy" => measured = Some(args.next().ok_or("how many?")?.parse()?),
            "--n" => n = args.next().ok_or("how many?")?.parse()?,
            _ => atlases.push(LabelAtlas::read(Path::new(&arg))?),
        }
    }
    if let Some(n) = measured {
        return anatomy(&atlases, n);
    }
    std::fs::create_dir_all(&out)?;
    let mut sheets = vec![("all", Synthetic::ALL), ("none", Synthetic::NONE)];
    let none = Synthetic::NONE;
    sheets.extend([
        ("sizes", Synthetic { sizes: true, ..none }),
        ("fat", Synthetic { fat: true, ..none }),
        ("pose", Synthetic { pose: true, ..none }),
        ("open_mouth", Synthetic { open_mouth: true, ..none }),
        ("organ_shapes", Synthetic { organ_shapes: true, ..none }),
        ("disease", Synthetic { disease: true, ..none }),
        ("contrast", Synthetic { contrast: true, ..none }),
        ("scanner", Synthetic { scanner: true, ..none }),
        ("dental_metal", Synthetic { dental_metal: true, ..none }),
        ("devices", Synthetic { devices: true, ..none }),
        ("field_of_view", Synthetic { field_of_view: true, ..none }),
    ]);
    let mut stdout = std::io::stdout();
    for (name, varied) in sheets {
        let mut rows = Vec::new();
        let mut spent = 0.0;
        for seed in 0..if name == "all" { n } else { n.min(4) } {
            let atlas = &atlases[usize::try_from(seed)? % atlases.len()];
            let mut rng = Pcg64::seed_from_u64(seed + 100);
            let before = cpu_seconds()?;
            let sample = atlas.draw(SampleGrid::whole(SPACING_MM, SHAPE), &varied, &mut rng);
            if seed >= u64::try_from(atlases.len())? {
                spent += cpu_seconds()? - before;
            }
            rows.push(row(&sample));
        }
        let counted = rows.len().saturating_sub(atlases.len());
        if counted > 0 {
            writeln!(stdout, "{name}: {:.3} CPU s per sample", spent / counted as f64)?;
        }
        write_png(&out.join(format!("{name}.png")), &rows)?;
    }
    if let Some(part) = real {
        let patients = list_open_kbp(Path::new(&part))?;
        let mut rows = Vec::new();
        for (seed, patient) in patients.iter().step_by(7).enumerate().take(usize::try_from(n)?) {
            let mut rng = Pcg64::seed_from_u64(u64::try_from(seed)?);
            let case = patient.read()?;
            rows.push(row(&draw_sample(
                &case,
                SampleGrid::whole(SPACING_MM, SHAPE),
                &AugmentSettings::NONE,
                &mut rng,
            )));
        }
        write_png(&out.join("real.png"), &rows)?;
    }
    Ok(())
}

/// Pairs of organs of which the way from the second to the first is printed.
const PAIRS: [(Organ, Organ); 10] = [
    (Organ::EyeL, Organ::EyeR),
    (Organ::ParotidL, Organ::ParotidR),
    (Organ::SmgL, Organ::SmgR),
    (Organ::BrainStem, Organ::EyeL),
    (Organ::EyeL, Organ::SmgL),
    (Organ::EyeL, Organ::ParotidL),
    (Organ::ParotidL, Organ::SmgL),
    (Organ::BrainStem, Organ::Mandible),
    (Organ::Mandible, Organ::ParotidL),
    (Organ::SmgL, Organ::Mandible),
];

/// Mean and standard deviation over patients: ways in mm, volumes in cm3.
fn anatomy(atlases: &[LabelAtlas], n: u64) -> Outcome<()> {
    let varied =
        Synthetic { sizes: true, pose: true, organ_shapes: true, open_mouth: true, ..Synthetic::NONE };
    let shape = [128, 96, 112];
    let mut stdout = std::io::stdout();
    for atlas in atlases {
        let mut ways = vec![Vec::new(); PAIRS.len()];
        let mut volumes = vec![Vec::new(); Organ::COUNT];
        for seed in 0..n {
            let sample =
                atlas.draw(SampleGrid::whole(SPACING_MM, shape), &varied, &mut Pcg64::seed_from_u64(seed));
            let mut found = vec![(0.0, [0.0; 3], true); Organ::COUNT];
            for ((z, y, x), bits) in sample.organs.indexed_iter().filter(|(_, bits)| **bits != 0) {
                for organ in OrganSet::from_bits(*bits).iter() {
                    let (n, sum, is_whole) = &mut found[organ.index()];
                    *n += 1.0;
                    for (a, index) in [z, y, x].into_iter().enumerate() {
                        sum[a] += index as f64 * SPACING_MM[a];
                        *is_whole &= index > 0 && index + 1 < shape[a];
                    }
                }
            }
            for (way, (a, b)) in ways.iter_mut().zip(PAIRS) {
                let [a, b] = [a, b].map(|organ| found[organ.index()]);
                if a.0 > 0.0 && b.0 > 0.0 && a.2 && b.2 {
                    way.push([2, 1, 0].map(|axis| a.1[axis] / a.0 - b.1[axis] / b.0));
                }
            }
            for (volume, (n, _, is_whole)) in volumes.iter_mut().zip(&found) {
                if *n > 0.0 && *is_whole {
                    volume.push(n * SPACING_MM.iter().product::<f64>() / 1000.0);
                }
            }
        }
        for ((a, b), way) in PAIRS.iter().zip(&ways) {
            let of = |axis: usize| mean(&way.iter().map(|w| w[axis]).collect::<Vec<f64>>());
            let [x, y, z] = [0, 1, 2].map(of);
            let text = [x, y, z].map(|(mean, deviation)| format!("{mean:6.0} ({deviation:.0})"));
            writeln!(stdout, "{a:?} - {b:?}, {} patients: x, y, z {}", way.len(), text.join(" "))?;
        }
        for organ in Organ::ALL {
            let (middle, deviation) = mean(&volumes[organ.index()]);
            writeln!(stdout, "{organ:?}: {middle:.2} cm3 ({deviation:.2})")?;
        }
    }
    Ok(())
}

fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// User and system time of this process.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no process name")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

type Rgb = Array2<[u8; 3]>;

fn row(sample: &Sample) -> Rgb {
    let [d, h, w] = SHAPE;
    let mut planes = Vec::new();
    // Where metal is, if there is any, instead of the lowest.
    let brightest = (0..d).map(|z| sample.image.index_axis(Axis(0), z).iter().filter(|v| **v > 0.9).count());
    let (z, n) = brightest.enumerate().max_by_key(|(_, n)| *n).unwrap_or((0, 0));
    for z in [if n > 3 { z } else { d / 4 }, d / 2, 3 * d / 4] {
        planes.push(plane(sample.image.index_axis(Axis(0), z), sample.organs.index_axis(Axis(0), z), 1.0));
    }
    for y in [2 * h / 5, 3 * h / 5] {
        planes.push(upright(sample, Axis(1), y));
    }
    for x in [2 * w / 5, w / 2] {
        planes.push(upright(sample, Axis(2), x));
    }
    side_by_side(&planes)
}

fn upright(sample: &Sample, axis: Axis, index: usize) -> Rgb {
    let mut image = sample.image.index_axis(axis, index);
    let mut organs = sample.organs.index_axis(axis, index);
    image.invert_axis(Axis(0));
    organs.invert_axis(Axis(0));
    plane(image, organs, SPACING_MM[0] / SPACING_MM[2])
}

/// Gray with the borders of organs in color.
fn plane(image: ArrayView2<'_, f32>, organs: ArrayView2<'_, u32>, stretch: f64) -> Rgb {
    let (h, w) = image.dim();
    let rows = (h as f64 * ZOOM as f64 * stretch) as usize;
    let at = |y: usize, x: usize| ((y as f64 / (ZOOM as f64 * stretch)) as usize, x / ZOOM);
    Array2::from_shape_fn((rows, w * ZOOM), |(y, x)| {
        let (row, column) = at(y, x);
        let here = organs[[row, column]];
        let (below, right) = (at((y + 1).min(rows - 1), x), at(y, (x + 1).min(w * ZOOM - 1)));
        if here != organs[[below.0, below.1]] || here != organs[[right.0, right.1]] {
            let organ = OrganSet::from_bits(here | organs[[below.0, below.1]] | organs[[right.0, right.1]]);
            let n = organ.iter().next().map_or(0, |organ| organ.index());
            return [(n * 97 % 200 + 55) as u8, (n * 57 % 200 + 55) as u8, (n * 151 % 200 + 55) as u8];
        }
        let hu = (image[[row, column]] + 1.0) / 2.0 * 4100.0 - 1024.0;
        [(((hu - WINDOW.0) / WINDOW.1).clamp(0.0, 1.0) * 255.0) as u8; 3]
    })
}

fn side_by_side(planes: &[Rgb]) -> Rgb {
    let height = planes.iter().map(|plane| plane.nrows()).max().unwrap_or(1);
    let width = planes.iter().map(|plane| plane.ncols() + 4).sum();
    let mut all = Array2::from_elem((height + 4, width), [40, 0, 40]);
    let mut left = 0;
    for plane in planes {
        all.slice_mut(ndarray::s![..plane.nrows(), left..left + plane.ncols()]).assign(plane);
        left += plane.ncols() + 4;
    }
    all
}

fn write_png(path: &Path, rows: &[Rgb]) -> Outcome<()> {
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    let all = ndarray::concatenate(Axis(0), &views)?;
    let (h, w) = all.dim();
    let mut encoder =
        png::Encoder::new(BufWriter::new(File::create(path)?), u32::try_from(w)?, u32::try_from(h)?);
    encoder.set_color(png::ColorType::Rgb);
    let bytes: Vec<u8> = all.iter().flatten().copied().collect();
    encoder.write_header()?.write_image_data(&bytes)?;
    Ok(())
}

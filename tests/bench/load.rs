//! Loading and resampling a series, timed; the other side and how to make the series stand in `ct_load.py`.
//!
//! `cargo run --release --example bench_load -- CT_DIR`

#![allow(clippy::print_stdout, reason = "a measurement for a person")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::volume::{HuVolume, resample};
use oarlock::vocabulary::space::Grid;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name the folder of a CT series")?;
    let (mut load_s, mut resample_s) = (Vec::new(), Vec::new());
    let mut sums = (0, 0.0);
    for _ in 0..5 {
        let start = Instant::now();
        let volume = HuVolume::read(&CtSeries::from_folder(Path::new(&folder))?)?;
        load_s.push(start.elapsed().as_secs_f64());
        let loaded = Instant::now();
        let wanted_mm = [2.5, 1.0, 1.0];
        let (shape, spacing_mm) = (volume.grid.shape(), volume.grid.spacing_mm());
        let sides =
            std::array::from_fn(|axis| whole(shape[axis] as f64 * spacing_mm[axis] / wanted_mm[axis]));
        let grid = Grid::new(sides, wanted_mm, volume.grid.origin(), volume.grid.directions())?;
        let resampled = resample(&volume, &grid);
        resample_s.push(loaded.elapsed().as_secs_f64());
        sums = (
            volume.hu.iter().map(|hu| i64::from(*hu)).sum(),
            resampled.iter().map(|hu| f64::from(*hu)).sum::<f64>() / resampled.len() as f64,
        );
    }
    load_s.sort_by(f64::total_cmp);
    resample_s.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!(
        "Oarlock: load {:.3} s, resample {:.3} s (medians of 5); sum of HU {}, mean after resampling {:.3}; {peak}",
        load_s[2], resample_s[2], sums.0, sums.1
    );
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of voxels of an image in memory"
)]
fn whole(count: f64) -> usize {
    count.round() as usize
}

//! Loading a series, timed; the other side and how to make the series stand in `tests/bench/ct_load.py`.

use std::time::Instant;

use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::volume::HuVolume;

#[test]
#[ignore = "a measurement: needs OARLOCK_BENCH_SERIES and --release"]
fn bench_load() {
    let folder = std::env::var_os("OARLOCK_BENCH_SERIES").expect("OARLOCK_BENCH_SERIES names a folder");
    let mut seconds = Vec::new();
    let mut sum = 0;
    for _ in 0..5 {
        let start = Instant::now();
        let series = CtSeries::from_folder(folder.as_ref()).unwrap();
        let listed = start.elapsed().as_secs_f64();
        let volume = HuVolume::read(&series).unwrap();
        seconds.push((start.elapsed().as_secs_f64(), listed));
        sum = volume.hu.iter().map(|hu| i64::from(*hu)).sum();
    }
    seconds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    eprintln!(
        "Oarlock: load {:.3} s [{:.3}-{:.3}], of which listing {:.3} s, sum of HU {sum}, {peak}",
        seconds[2].0, seconds[0].0, seconds[4].0, seconds[2].1
    );
}

//! What a whole step costs in this program, for `tests/bench/training_step.py`, which says what it is made of.

use std::time::Instant;

use ndarray::Array3;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;

use super::*;
use crate::engine::runtime::session::{Provider, runtime_of_tests};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// Steps that count, after one to warm up.
const STEPS: u32 = 2;

#[derive(Deserialize)]
struct Plan {
    preset: String,
    threads: usize,
    crop: [usize; 3],
    rows: usize,
    /// First voxel, sides, and which organ.
    boxes: Vec<([usize; 3], [usize; 3], usize)>,
}

/// What a part of a step took: seconds by the clock, and the most memory the process had meanwhile, MB.
fn part<T>(parts: &mut Vec<(&'static str, f64, f64)>, name: &'static str, of: impl FnOnce() -> T) -> T {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let began = Instant::now();
    let made = of();
    parts.push((name, began.elapsed().as_secs_f64(), used().1));
    made
}

/// Seconds of the processors since the process began, and the most memory it had, MB.
fn used() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: f64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    (ticks / 100.0, kilobytes * 1.024 / 1e3)
}

/// Nothing where nobody asks by `OARLOCK_TIMED_STEP`.
#[test]
#[expect(clippy::print_stdout, reason = "the script reads it")]
fn a_step_is_timed_where_that_is_asked_for() {
    let Ok(plan) = std::env::var("OARLOCK_TIMED_STEP") else { return };
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    let runtime = runtime_of_tests("a_step_is_timed").expect("ONNX Runtime");
    let mut rng = Pcg64::seed_from_u64(1);
    let mut organs = Array3::zeros(plan.crop);
    let regions: Vec<(Organ, VoxelBox)> = plan
        .boxes
        .iter()
        .map(|(start, sides, organ)| {
            let organ = Organ::ALL[*organ];
            let inner = [0, 1, 2].map(|a| (start[a] + sides[a] / 4, start[a] + sides[a] - sides[a] / 5));
            let [z, y, x] = inner;
            organs
                .slice_mut(ndarray::s![z.0..z.1, y.0..y.1, x.0..x.1])
                .mapv_inplace(|bits: u32| bits | OrganSet::of(organ).bits());
            (organ, VoxelBox { start: *start, end: [0, 1, 2].map(|a| start[a] + sides[a]) })
        })
        .collect();
    let image = Array3::from_shape_simple_fn(plan.crop, || rng.random_range(-1.0..1.0));
    let sample = Sample { name: "random".into(), image, organs, annotated: OrganSet::ALL };
    let boxes = true_boxes(&sample.organs, sample.annotated, &Preset::named(&plan.preset).unwrap());
    let body = BodyCount::of(sample.image.view());
    let truth = Truth { boxes: &boxes, annotated: sample.annotated, body: &body };
    let proposals: Vec<RefinementSample> = (0..plan.rows)
        .map(|row| {
            let long = [0; 3].map(|_: usize| 8.0 * rng.random_range(3..7_u8) as f32);
            let centre = [0, 1, 2]
                .map(|axis| rng.random_range(long[axis] / 2.0..=plan.crop[axis] as f32 - long[axis] / 2.0));
            let proposal =
                NetworkBox::from_array([centre[0], centre[1], centre[2], long[0], long[1], long[2]]);
            RefinementSample { proposal, truth: (row < 40).then_some(row % boxes.len()) }
        })
        .collect();
    let options = SessionOptions { threads: plan.threads, provider: Provider::Cpu };
    let weights = Weights::start(&Preset::named(&plan.preset).unwrap(), 1);
    let mut trainer =
        Trainer::new(runtime, options, plan.crop, Norms::Batch, 1 << 30, weights, Adam::default()).unwrap();

    let mut most_mb = used().1;
    let mut step = |rng: &mut Pcg64| {
        let mut parts = Vec::new();
        let (mut gradients, mut losses) = (Tensors::new(), Losses::default());
        let (mut features, ..) = part(&mut parts, "way out", || trainer.look(&sample).unwrap());
        part(&mut parts, "masks", || {
            for (organ, region) in &regions {
                let of = boxes.iter().find(|of| of.organ == *organ).unwrap();
                let loss = trainer.mask(&mut features, &sample, of, *region, &mut gradients).unwrap();
                assert!(loss > 0.0);
            }
        });
        part(&mut parts, "refinement", || {
            trainer.refine(&mut features, &proposals, &truth, plan.rows, &mut gradients).unwrap();
        });
        let running = part(&mut parts, "way back", || {
            trainer.backbone(&features, &truth, rng, &mut gradients, &mut losses).unwrap()
        });
        part(&mut parts, "weights", || {
            assert!(clip(&mut gradients, 10.0).is_finite());
            trainer.adam.step(&mut trainer.weights, &gradients, &AdamRates::default());
            for (name, values) in running {
                trainer.weights.values_mut(&name).copy_from_slice(&values);
            }
        });
        most_mb = parts.iter().map(|(_, _, mb)| *mb).fold(most_mb, f64::max);
        parts
    };
    step(&mut rng);
    let (before, began) = (used().0, Instant::now());
    let parts: Vec<_> = (0..STEPS).map(|_| step(&mut rng)).collect();
    let (cpu, wall) = (used().0 - before, began.elapsed().as_secs_f64());
    let per_step = f64::from(STEPS);
    println!(
        "{}",
        serde_json::json!({"cpu": cpu / per_step, "wall": wall / per_step, "peak_mb": most_mb, "parts": parts.last()})
    );
}

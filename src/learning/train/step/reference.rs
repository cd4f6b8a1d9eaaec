//! One whole step against PyTorch in float64: all losses, all gradients, all running statistics.
//!
//! `tests/reference/whole_step.py` makes the numbers, `tests/reference/whole_step.json` holds them and names the versions
//! that made them. What differs from a step of a run is only that proposals and mask boxes are given, not drawn.

use std::collections::BTreeMap;

use ndarray::Array3;
use rand::SeedableRng;
use rand_pcg::Pcg64;

use super::*;
use crate::engine::graph::hashed::{hashed, hashed_weights};
use crate::engine::runtime::session::{Provider, runtime_of_tests};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

const SIDES: [usize; 3] = [32, 32, 48];
const ROWS: usize = 6;

/// Allowed difference of a gradient as a share of its length.
const TOLERANCE: f64 = 2e-4;

fn sample(number: &serde_json::Value) -> Sample {
    let name = format!("whole image {number}");
    let image = Array3::from_shape_vec(SIDES, hashed(&name, SIDES.iter().product())).unwrap();
    let mut organs = Array3::zeros(SIDES);
    for (organ, [z0, y0, x0], [z1, y1, x1]) in [
        (Organ::LensR, [20, 22, 8], [23, 27, 12]),
        (Organ::Mandible, [8, 4, 10], [20, 20, 34]),
        (Organ::ParotidL, [12, 10, 30], [24, 24, 44]),
    ] {
        let mut part = organs.slice_mut(ndarray::s![z0..z1, y0..y1, x0..x1]);
        part.mapv_inplace(|bits: u32| bits | OrganSet::of(organ).bits());
    }
    Sample { name: "hashed".into(), image, organs, annotated: OrganSet::ALL }
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure is quoted in docs/training.md")]
fn a_whole_step_is_that_of_pytorch() {
    let Some(runtime) = runtime_of_tests("a_whole_step_is_that_of_pytorch") else { return };
    let text = include_str!("../../../../tests/reference/whole_step.json");
    let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    assert!(all.remove("made by").is_some());
    let sample = sample(&all.remove("image").unwrap());
    let weights = hashed_weights(&Preset::starter());
    let options = SessionOptions { threads: 2, provider: Provider::Cpu };
    let mut trainer =
        Trainer::new(runtime, options, SIDES, Norms::Batch, 1 << 30, weights, Adam::default()).unwrap();
    let boxes = true_boxes(&sample.organs, sample.annotated, &trainer.preset);
    let body = BodyCount::of(sample.image.view());
    let truth = Truth { boxes: &boxes, annotated: sample.annotated, body: &body };
    let (mut features, ..) = trainer.look(&sample).unwrap();
    let mut gradients = Tensors::new();

    let proposals = [
        ([13.5, 11.5, 21.5, 16.0, 20.0, 28.0], Some(1)),
        ([14.0, 12.5, 20.0, 14.0, 19.0, 30.0], Some(1)),
        ([17.0, 16.0, 37.0, 15.0, 17.0, 17.0], Some(2)),
        ([26.0, 27.0, 40.0, 9.0, 8.0, 12.0], None),
    ];
    let samples =
        proposals.map(|(sides, truth)| RefinementSample { proposal: NetworkBox::from_array(sides), truth });
    let (class, delta) = trainer.refine(&mut features, &samples, &truth, ROWS, &mut gradients).unwrap();
    let mut mask = 0.0;
    for (number, start, end) in [(1, [8, 0, 8], [24, 24, 40]), (0, [16, 16, 0], [24, 32, 16])] {
        let region = VoxelBox { start, end };
        mask += trainer.mask(&mut features, &sample, &boxes[number], region, &mut gradients).unwrap();
    }
    let mut losses = Losses::default();
    let mut rng = Pcg64::seed_from_u64(1);
    let running = trainer.backbone(&features, &truth, &mut rng, &mut gradients, &mut losses).unwrap();

    let mut expected: BTreeMap<String, Vec<f64>> =
        all.into_iter().map(|(name, value)| (name, serde_json::from_value(value).unwrap())).collect();
    let mut off = BTreeMap::new();
    let mut compare = |name: String, values: &[f32]| {
        let wanted = expected.remove(&name).unwrap_or_else(|| panic!("the script has no {name}"));
        let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let products = (0..wanted.len() - 1).map(|n| {
            let along = hashed(&format!("whole {n} {name}"), values.len());
            values.iter().zip(along).map(|(v, a)| f64::from(*v) * f64::from(a)).sum::<f64>()
        });
        let found: Vec<f64> = std::iter::once(norm).chain(products).collect();
        let most = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
        off.insert(name, most / wanted[0]);
    };
    for (name, loss) in [
        ("rpn_class", losses.proposal_class),
        ("rpn_box", losses.proposal_box),
        ("class", class),
        ("box", delta),
        ("mask", mask),
    ] {
        compare(format!("loss.{name}"), &[loss]);
    }
    gradients.iter().for_each(|(name, values)| compare(format!("grad.{name}"), values));
    running.iter().for_each(|(name, values)| compare(format!("running.{name}"), values));
    assert!(expected.is_empty(), "not compared: {:?}", expected.keys());
    assert!(off.len() > 150, "{}", off.len());
    let (worst, most) = off.iter().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    eprintln!("{} tensors, largest relative difference {most:.1e} ({worst})", off.len());
    assert!(*most < TOLERANCE, "{worst} is off by {most:.1e}");
}

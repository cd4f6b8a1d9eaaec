//! Curves as inline SVG.

use std::fmt::Write;

/// How the vertical axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0 to 1, as overlaps do.
    Unit,
    /// From 0 to the largest value.
    Linear,
    /// By powers of ten.
    Logarithmic,
}

/// One chart over steps.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) scale: Scale,
    /// Right end of the horizontal axis.
    pub(super) last_step: u64,
    /// Step and value, in order of step.
    pub(super) points: Vec<(u64, f64)>,
    /// Whether each point is a measurement to be marked, or one of many to be averaged.
    pub(super) marked: bool,
}

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 22.0;

/// Points of a line at most; a page of a year's steps stays small.
const MOST_POINTS: usize = 240;

/// Several neighbouring points as one: step of the middle, mean, least, most.
struct Bucket {
    step: f64,
    mean: f64,
    low: f64,
    high: f64,
}

impl Chart<'_> {
    pub(super) fn svg(&self) -> String {
        let buckets = self.buckets();
        let mut svg = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
             <text class=\"title\" x=\"{LEFT}\" y=\"15\">{title}</text>",
            title = super::escaped(self.title)
        );
        if buckets.is_empty() {
            put(&mut svg, format_args!("<text x=\"{LEFT}\" y=\"{}\">nothing yet</text></svg>", HEIGHT / 2.0));
            return svg;
        }
        let (low, high) = self.range(&buckets);
        let y = |value: f64| {
            let share =
                (self.place(value) - self.place(low)) / (self.place(high) - self.place(low)).max(1e-12);
            HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
        };
        let x = |step: f64| LEFT + step / (self.last_step.max(1) as f64) * (WIDTH - LEFT - RIGHT);
        for tick in self.ticks(low, high) {
            let at = y(tick);
            put(
                &mut svg,
                format_args!(
                    "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                    WIDTH - RIGHT,
                    LEFT - 5.0,
                    at + 3.5,
                    short(tick)
                ),
            );
        }
        let bottom = HEIGHT - 7.0;
        let last = self.last_step as f64;
        for (step, anchor) in [(0.0, "start"), (last / 2.0, "middle"), (last, "end")] {
            put(
                &mut svg,
                format_args!(
                    "<text class=\"tick\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{bottom}\">{}</text>",
                    x(step),
                    short(step)
                ),
            );
        }
        let line = |of: &dyn Fn(&Bucket) -> f64, buckets: &mut dyn Iterator<Item = &Bucket>| {
            let points: Vec<String> =
                buckets.map(|bucket| format!("{:.1},{:.1}", x(bucket.step), y(of(bucket)))).collect();
            points.join(" ")
        };
        if !self.marked {
            let upper = line(&|bucket| bucket.high, &mut buckets.iter());
            let lower = line(&|bucket| bucket.low, &mut buckets.iter().rev());
            put(&mut svg, format_args!("<polygon class=\"band\" points=\"{upper} {lower}\"/>"));
        }
        let mean = line(&|bucket| bucket.mean, &mut buckets.iter());
        put(&mut svg, format_args!("<polyline class=\"line\" points=\"{mean}\"/>"));
        if self.marked || buckets.len() == 1 {
            for bucket in &buckets {
                put(
                    &mut svg,
                    format_args!(
                        "<circle class=\"mark\" r=\"2.5\" cx=\"{:.1}\" cy=\"{:.1}\"><title>step {}: {}</title></circle>",
                        x(bucket.step),
                        y(bucket.mean),
                        bucket.step,
                        short(bucket.mean)
                    ),
                );
            }
        }
        svg.push_str("</svg>");
        svg
    }

    fn buckets(&self) -> Vec<Bucket> {
        let usable: Vec<(u64, f64)> = self
            .points
            .iter()
            .copied()
            .filter(|(_, value)| value.is_finite() && (self.scale != Scale::Logarithmic || *value > 0.0))
            .collect();
        let together = if self.marked { 1 } else { usable.len().div_ceil(MOST_POINTS).max(1) };
        usable
            .chunks(together)
            .map(|chunk| {
                let values = || chunk.iter().map(|(_, value)| *value);
                Bucket {
                    step: chunk[chunk.len() / 2].0 as f64,
                    mean: values().sum::<f64>() / chunk.len() as f64,
                    low: values().fold(f64::INFINITY, f64::min),
                    high: values().fold(f64::NEG_INFINITY, f64::max),
                }
            })
            .collect()
    }

    fn range(&self, buckets: &[Bucket]) -> (f64, f64) {
        let low = buckets.iter().map(|bucket| bucket.low).fold(f64::INFINITY, f64::min);
        let high = buckets.iter().map(|bucket| bucket.high).fold(f64::NEG_INFINITY, f64::max);
        match self.scale {
            Scale::Unit => (0.0, 1.0),
            Scale::Linear => (0.0, if high > 0.0 { high } else { 1.0 }),
            Scale::Logarithmic => (
                10.0_f64.powf(low.log10().floor()),
                10.0_f64.powf(high.log10().ceil().max(low.log10().floor() + 1.0)),
            ),
        }
    }

    fn place(&self, value: f64) -> f64 {
        if self.scale == Scale::Logarithmic { value.max(1e-300).log10() } else { value }
    }

    fn ticks(&self, low: f64, high: f64) -> Vec<f64> {
        match self.scale {
            Scale::Unit => vec![0.0, 0.25, 0.5, 0.75, 1.0],
            Scale::Linear => {
                let rough = high / 4.0;
                let power = 10.0_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                (0_u8..=5).map(|n| f64::from(n) * step).filter(|tick| *tick <= high * 1.001).collect()
            }
            Scale::Logarithmic => {
                let decades = (high / low).log10().round();
                let every = (decades / 4.0).ceil().max(1.0);
                let ticks = (0_u16..400).map(|n| low * 10.0_f64.powf(f64::from(n) * every));
                ticks.take_while(|tick| *tick <= high * 1.001).collect()
            }
        }
    }
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a string takes everything");
}

/// A number in few letters.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let trimmed = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    if size >= 1e6 {
        trimmed(format!("{:.1}", value / 1e6)) + "M"
    } else if size >= 1e4 {
        trimmed(format!("{:.1}", value / 1e3)) + "k"
    } else if size == 0.0 || size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 0.01 {
        trimmed(format!("{value:.3}"))
    } else {
        format!("{value:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.25, 1.0, 3.125, 250.0, 9999.0, 40_000.0, 1.25e6, 1e-5].map(short);
        assert_eq!(shown, ["0", "0.25", "1", "3.125", "250", "9999", "40k", "1.2M", "1e-5"]);
    }

    /// Step 50 of 100 lies in the middle, 0.25 a quarter up: x = 46 + 142, y = 148 - 30.5.
    #[test]
    fn a_point_lies_where_its_numbers_say() {
        let points = vec![(50, 0.25)];
        let chart = Chart { title: "DSC", scale: Scale::Unit, last_step: 100, points, marked: true };
        let svg = chart.svg();
        assert!(svg.contains("cx=\"188.0\" cy=\"117.5\""), "{svg}");
        assert!(svg.contains("<title>step 50: 0.25</title>"), "{svg}");
    }

    #[test]
    fn many_points_become_few_and_keep_their_range() {
        let points = (0..10_000).map(|step| (step, if step == 7777 { 9.0 } else { 1.0 })).collect();
        let chart = Chart { title: "a", scale: Scale::Linear, last_step: 10_000, points, marked: false };
        let buckets = chart.buckets();
        assert!(buckets.len() <= MOST_POINTS);
        assert!(buckets.iter().any(|bucket| bucket.high > 8.9 && bucket.low < 1.1));
        let empty = Chart { points: vec![(1, f64::NAN)], ..chart };
        assert!(empty.svg().contains("nothing yet"));
    }
}

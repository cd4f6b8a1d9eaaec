//! Box plots as SVG that follow the page's colors.

use std::fmt::Write;

use super::html::escape;
use crate::learning::evaluate::summary::{Estimate, quantile};

/// Sizes in units of the drawing, which are pixels on a wide page.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 140.0;
const RIGHT: f64 = 60.0;
const ROW: f64 = 24.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 30.0;
/// Boxes of fewer values would claim a shape that nobody has seen: their values are drawn as dots.
const FEWEST_FOR_A_BOX: usize = 5;

/// One box per row: quartiles and median, whiskers to the last value within 1.5 quartile ranges (Tukey), dots beyond,
/// and a diamond at the mean. The number of values stands at the end.
pub(super) fn box_plot(rows: &[(&str, &Estimate)], range: [f64; 2], unit: &str) -> String {
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let at = |value: f64| LEFT + (value - range[0]) / (range[1] - range[0]) * (WIDTH - LEFT - RIGHT);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Box plot, {unit}\">");
    let bottom = height - BOTTOM;
    for tick in 0..=5 {
        let value = range[0] + f64::from(tick) / 5.0 * (range[1] - range[0]);
        let x = at(value);
        add(&mut svg, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom:.1}\"/>"));
        let y = bottom + 16.0;
        add(&mut svg, format_args!("<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", short(value)));
    }
    let (middle, below) = (at((range[0] + range[1]) / 2.0), bottom + 28.0);
    add(
        &mut svg,
        format_args!("<text class=\"tick\" x=\"{middle:.1}\" y=\"{below:.1}\">{}</text>", escape(unit)),
    );
    for (n, (name, estimate)) in rows.iter().enumerate() {
        let y = TOP + ROW * (n as f64 + 0.5);
        row(&mut svg, y, name, estimate, &at);
    }
    svg.push_str("</svg>");
    svg
}

fn row(svg: &mut String, y: f64, name: &str, estimate: &Estimate, at: &dyn Fn(f64) -> f64) {
    let base = y + 4.0;
    add(
        svg,
        format_args!("<text class=\"name\" x=\"{}\" y=\"{base:.1}\">{}</text>", LEFT - 10.0, escape(name)),
    );
    add(
        svg,
        format_args!(
            "<text class=\"count\" x=\"{}\" y=\"{base:.1}\">n {}</text>",
            WIDTH - RIGHT + 12.0,
            estimate.n
        ),
    );
    let values = &estimate.values;
    let mut dots: Vec<f64> = values.clone();
    if values.len() >= FEWEST_FOR_A_BOX {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|q| quantile(values, q));
        let reach = 1.5 * (high - low);
        let near = |value: &&f64| (low - reach..=high + reach).contains(*value);
        let (first, last) = (values.iter().find(near), values.iter().rfind(near));
        let (first, last) = (first.copied().unwrap_or(low).min(low), last.copied().unwrap_or(high).max(high));
        dots.retain(|value| !(first..=last).contains(value));
        let [first, low, median, high, last] = [first, low, median, high, last].map(at);
        add(
            svg,
            format_args!(
                "<path class=\"line\" d=\"M{first:.1} {y:.1}H{last:.1}M{first:.1} {:.1}v8M{last:.1} {:.1}v8\"/>",
                y - 4.0,
                y - 4.0
            ),
        );
        let (top, width) = (y - 7.0, (high - low).max(1.0));
        add(
            svg,
            format_args!(
                "<rect class=\"box\" x=\"{low:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"14\"/>"
            ),
        );
        add(svg, format_args!("<path class=\"median\" d=\"M{median:.1} {top:.1}v14\"/>"));
    }
    for dot in dots {
        add(svg, format_args!("<circle class=\"dot\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>", at(dot)));
    }
    let mean = at(estimate.spread.mean);
    add(svg, format_args!("<path class=\"mean\" d=\"M{mean:.1} {:.1}l4 4l-4 4l-4 -4z\"/>", y - 4.0));
}

/// A round end of the scale at or above the largest of the values.
pub(super) fn round_above(largest: f64) -> f64 {
    let power = 10.0_f64.powf(largest.max(1e-3).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|end| *end >= largest).unwrap_or(10.0 * power)
}

/// A number on the scale, without needless zeros.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn add(svg: &mut String, part: std::fmt::Arguments<'_>) {
    svg.write_fmt(part).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::evaluate::Spread;

    fn estimate(values: &[f64]) -> Estimate {
        let spread = Spread::of(values).unwrap();
        Estimate { n: values.len(), spread, interval: None, values: values.to_vec() }
    }

    /// Scale 0..=10 on 660 units from 140: 66 each. Quartiles 2, 3, 4; whiskers reach 1 and 4; 9 is beyond 4 + 3.
    #[test]
    fn a_box_lies_where_its_quartiles_are() {
        let found = estimate(&[1.0, 2.0, 3.0, 4.0, 9.0]);
        let svg = box_plot(&[("a < b", &found)], [0.0, 10.0], "mm");
        for wanted in [
            "a &lt; b",
            "n 5",
            "x=\"272.0\"",
            "width=\"132.0\"",
            "M338.0",
            "M206.0 20.0H404.0",
            "cx=\"734.0\"",
        ] {
            assert!(svg.contains(wanted), "{wanted} is missing in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 1);
        let few = box_plot(&[("few", &estimate(&[1.0, 2.0]))], [0.0, 10.0], "mm");
        assert_eq!((few.matches("<circle").count(), few.matches("<rect").count()), (2, 0));
    }

    #[test]
    fn scales_end_at_round_numbers() {
        let ends = [0.03, 4.0, 7.2, 23.0, 100.0].map(round_above);
        for (found, wanted) in ends.into_iter().zip([0.05, 5.0, 10.0, 25.0, 100.0]) {
            assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
        }
        assert_eq!([0.2, 1.0, 12.5].map(short), ["0.2", "1", "12.5"]);
    }
}

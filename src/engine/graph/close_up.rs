//! A second look at small organs: which ones, and where they lie in its window.

use crate::vocabulary::organ::Organ;

/// What a network that looks at a window round small organs, and not at a whole scan, is for.
#[derive(Debug, Clone, PartialEq)]
pub struct CloseUp {
    /// The organs, with the usual place of each one's middle from the middle of the window, mm, `(z, y, x)`: z to the
    /// head, y to the back, x to the left.
    pub organs: Vec<(Organ, [f64; 3])>,
    /// Sides of the window in voxels, `(z, y, x)`, multiples of 16.
    pub window: [usize; 3],
}

impl CloseUp {
    /// Eyes, ears and what lies between them. Places: means over patients drawn from both atlases (docs/synthetic.md).
    pub(super) fn of_the_head() -> Self {
        let one = |organ, z, y| vec![(organ, [z, y, 0.0])];
        let pair = |left, right, z, y, x: f64| vec![(left, [z, y, x]), (right, [z, y, -x])];
        let organs = [
            pair(Organ::EarL, Organ::EarR, -6.0, 35.0, 28.0),
            pair(Organ::EyeL, Organ::EyeR, 4.0, -32.0, 27.0),
            one(Organ::Hypophysis, 14.0, 9.0),
            pair(Organ::LensL, Organ::LensR, 3.0, -39.0, 27.0),
            one(Organ::OpticChiasm, 24.0, 10.0),
            pair(Organ::OpticNerveL, Organ::OpticNerveR, 15.0, -6.0, 14.0),
            pair(Organ::TmjL, Organ::TmjR, -18.0, 22.0, 43.0),
        ];
        Self { organs: organs.concat(), window: [64, 112, 128] }
    }

    /// Whether it is for this organ.
    #[must_use]
    pub fn is_for(&self, organ: Organ) -> bool {
        self.organs.iter().any(|(of, _)| *of == organ)
    }

    /// Where the middle of the window belongs, by the middles of organs that were found, mm `(z, y, x)`: the median of
    /// what each says, so that one in a wrong place moves little. `None` where no organ is one of its own.
    #[must_use]
    pub fn middle(&self, found: &[(Organ, [f64; 3])]) -> Option<[f64; 3]> {
        let place = |organ| self.organs.iter().find(|(of, _)| *of == organ).map(|(_, place)| place);
        let says = |(organ, at): &(Organ, [f64; 3])| {
            place(*organ).map(|place| -> [f64; 3] { std::array::from_fn(|a| at[a] - place[a]) })
        };
        let all: Vec<[f64; 3]> = found.iter().filter_map(says).collect();
        (!all.is_empty()).then(|| {
            std::array::from_fn(|axis| {
                let mut values: Vec<f64> = all.iter().map(|middle| middle[axis]).collect();
                values.sort_by(f64::total_cmp);
                let half = values.len() / 2;
                if values.len() % 2 == 1 {
                    values[half]
                } else {
                    f64::midpoint(values[half - 1], values[half])
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seven organs stand where they should about (100, 50, -20), the right eye is taken for a place 90 mm off.
    #[test]
    fn one_organ_in_a_wrong_place_does_not_move_the_window() {
        let close_up = CloseUp::of_the_head();
        let middle = [100.0, 50.0, -20.0];
        let mut found: Vec<(Organ, [f64; 3])> = close_up
            .organs
            .iter()
            .map(|(organ, place)| (*organ, std::array::from_fn(|a| middle[a] + place[a])))
            .filter(|(organ, _)| !matches!(organ, Organ::LensL | Organ::LensR | Organ::TmjL))
            .collect();
        found.push((Organ::Larynx, [0.0; 3]));
        let eye = found.iter_mut().find(|(organ, _)| *organ == Organ::EyeR).unwrap();
        eye.1[2] += 90.0;
        let at = close_up.middle(&found).unwrap();
        assert!(at.iter().zip(middle).all(|(a, b)| (a - b).abs() < 1e-9), "{at:?}");
        assert_eq!(close_up.middle(&[(Organ::Larynx, [0.0; 3])]), None);
        assert_eq!(close_up.middle(&[]), None);
    }
}

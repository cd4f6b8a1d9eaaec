//! Organs that few real patients annotate come up more often.

use rand::{Rng, RngExt};

use crate::learning::dataset::OrganSet;
use crate::vocabulary::organ::Organ;

/// However rare its organs, no patient comes up more than so many times as often as the commonest: it would be learnt by heart.
const MOST_OFTEN: f64 = 5.0;

/// How often patients and organs come up, relative to each other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rarity {
    /// How many real patients annotate each organ.
    pub(super) counts: [usize; Organ::COUNT],
    /// Weight of each organ, 1 for the commonest; `None`: all alike.
    organs: Option<[f64; Organ::COUNT]>,
    /// Running sums of the patients' weights times their sources' shares.
    patients: Vec<f64>,
}

impl Rarity {
    /// From what each real patient annotates. An organ's weight is `(count of the commonest / its count) ^ strength`, at
    /// most [`MOST_OFTEN`]; one that nobody annotates counts like the rarest that somebody does. A patient weighs as much
    /// as its rarest organ, times its share of its source.
    pub(super) fn of(annotated: &[OrganSet], shares: &[f64], strength: f64) -> Self {
        let mut counts = [0_usize; Organ::COUNT];
        for organ in annotated.iter().flat_map(|set| set.iter()) {
            counts[organ.index()] += 1;
        }
        let (most, least) = (
            counts.iter().copied().max().unwrap_or(0),
            counts.iter().copied().filter(|count| *count > 0).min().unwrap_or(1),
        );
        let organs_alike = strength <= 0.0 || most == 0;
        let weight = |count: usize| {
            let count = if count == 0 { least } else { count };
            (most as f64 / count as f64).powf(strength).min(MOST_OFTEN)
        };
        let organs = counts.map(|count| if organs_alike { 1.0 } else { weight(count) });
        let mut sum = 0.0;
        let patients = annotated.iter().zip(shares).map(|(set, share)| {
            sum += share * set.iter().map(|organ| organs[organ.index()]).fold(1.0, f64::max);
            sum
        });
        let patients = patients.collect();
        Self { counts, patients, organs: (!organs_alike).then_some(organs) }
    }

    /// The place of a patient among `n`.
    pub(super) fn draw_patient(&self, n: usize, rng: &mut impl Rng) -> usize {
        let Some(total) = self.patients.last() else { return rng.random_range(0..n) };
        let at = rng.random_range(0.0..*total);
        self.patients.partition_point(|sum| *sum <= at).min(n - 1)
    }

    /// Keeps `count` of the items, the organs of greater weight rather than the others, in their order.
    /// Source of the draw: Efraimidis and Spirakis 2006.
    pub(super) fn draw_down_to<T>(
        &self,
        items: &mut Vec<T>,
        count: usize,
        organ: impl Fn(&T) -> Organ,
        rng: &mut impl Rng,
    ) {
        let Some(weights) = &self.organs else {
            while items.len() > count {
                items.swap_remove(rng.random_range(0..items.len()));
            }
            return;
        };
        if items.len() <= count {
            return;
        }
        let mut keys: Vec<f64> = items
            .iter()
            .map(|item| -rng.random_range(f64::MIN_POSITIVE..1.0).ln() / weights[organ(item).index()])
            .collect();
        let mut sorted = keys.clone();
        sorted.sort_by(f64::total_cmp);
        let last = count.checked_sub(1).map_or(f64::NEG_INFINITY, |at| sorted[at]);
        items.retain(|_| keys.remove(0) <= last);
    }

    /// How many times as often a patient with this organ comes up as one with common organs only.
    pub(super) fn times(&self, organ: Organ) -> f64 {
        self.organs.as_ref().map_or(1.0, |weights| weights[organ.index()])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    fn set(organs: &[Organ]) -> OrganSet {
        organs.iter().fold(OrganSet::EMPTY, |set, organ| set.union(OrganSet::of(*organ)))
    }

    /// Ten patients with a mandible, four of them with a larynx, one with a thyroid alone: 1, 10 / 4 and, capped, 5.
    fn patients() -> Vec<OrganSet> {
        let mut all = vec![set(&[Organ::Mandible]); 6];
        all.extend([set(&[Organ::Mandible, Organ::Larynx]); 4]);
        all.push(set(&[Organ::Thyroid]));
        all
    }

    #[test]
    fn patients_of_rare_organs_come_up_more_often() {
        let rarity = Rarity::of(&patients(), &[1.0; 11], 1.0);
        assert_eq!((rarity.counts[Organ::Mandible.index()], rarity.counts[Organ::Larynx.index()]), (10, 4));
        assert!((rarity.times(Organ::Larynx) - 2.5).abs() < 1e-12);
        assert!(
            (rarity.times(Organ::Thyroid) - 5.0).abs() < 1e-12
                && (rarity.times(Organ::EyeL) - 5.0).abs() < 1e-12
        );
        let mut rng = Pcg64::seed_from_u64(3);
        let mut drawn = [0; 11];
        (0..21_000).for_each(|_| drawn[rarity.draw_patient(11, &mut rng)] += 1);
        // Weights 6 x 1, 4 x 2.5, 5: 21 in all.
        assert!(drawn[..6].iter().all(|n| (880..=1120).contains(n)), "{drawn:?}");
        assert!(drawn[6..10].iter().all(|n| (2320..=2680).contains(n)), "{drawn:?}");
        assert!((4750..=5250).contains(&drawn[10]), "{drawn:?}");
    }

    #[test]
    fn without_strength_all_are_alike() {
        let mut shares = [1.0; 11];
        shares[2] = 4.0;
        let rarity = Rarity::of(&patients(), &shares, 0.0);
        assert!((rarity.times(Organ::Larynx) - 1.0).abs() < 1e-12);
        let mut rng = Pcg64::seed_from_u64(3);
        let mut drawn = [0; 11];
        (0..14_000).for_each(|_| drawn[rarity.draw_patient(11, &mut rng)] += 1);
        assert!((3800..=4200).contains(&drawn[2]), "{drawn:?}");
        assert!(drawn.iter().enumerate().all(|(i, n)| i == 2 || (880..=1120).contains(n)), "{drawn:?}");
    }

    /// One of two boxes: the larynx weighs 2.5 against the mandible's 1, so it stays 5 times in 7.
    #[test]
    fn boxes_of_rare_organs_stay_more_often() {
        let rarity = Rarity::of(&patients(), &[1.0; 11], 1.0);
        let mut rng = Pcg64::seed_from_u64(3);
        let mut larynx = 0;
        for _ in 0..7000 {
            let mut items = vec![Organ::Mandible, Organ::Larynx];
            rarity.draw_down_to(&mut items, 1, |organ| *organ, &mut rng);
            assert_eq!(items.len(), 1);
            larynx += usize::from(items[0] == Organ::Larynx);
        }
        assert!((4850..=5150).contains(&larynx), "{larynx}");
        let mut all = vec![Organ::Mandible, Organ::Larynx];
        rarity.draw_down_to(&mut all, 3, |organ| *organ, &mut rng);
        assert_eq!(all.len(), 2);
    }
}

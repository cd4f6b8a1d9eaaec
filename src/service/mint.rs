//! New UIDs and the time, handed down so that nothing below takes them from the air.

use time::OffsetDateTime;

/// Where new identifiers and times come from.
#[derive(Debug)]
pub struct Mint {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// 128 random bits each, and the clock.
    World,
    /// The same values in every run.
    Fixed { next: u128, now: OffsetDateTime },
}

impl Mint {
    /// Random identifiers and the local clock.
    #[must_use]
    pub fn from_world() -> Self {
        Self { source: Source::World }
    }

    /// Counts up from `first`, always at `now`: for tests and comparisons.
    #[must_use]
    pub fn fixed(first: u128, now: OffsetDateTime) -> Self {
        Self { source: Source::Fixed { next: first, now } }
    }

    /// 128 bits for the `mint` of a UID type.
    pub fn bits(&mut self) -> u128 {
        match &mut self.source {
            Source::World => uuid::Uuid::new_v4().as_u128(),
            Source::Fixed { next, .. } => {
                *next = next.wrapping_add(1);
                next.wrapping_sub(1)
            }
        }
    }

    /// The time, local where the system knows its zone.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        match &self.source {
            Source::World => OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc()),
            Source::Fixed { now, .. } => *now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_mint_repeats_itself_and_never_gives_a_number_twice() {
        let draw = || {
            let mut mint = Mint::fixed(7, OffsetDateTime::UNIX_EPOCH);
            (mint.bits(), mint.bits(), mint.now())
        };
        assert_eq!(draw(), (7, 8, OffsetDateTime::UNIX_EPOCH));
        assert_eq!(draw(), draw());
        let mut world = Mint::from_world();
        assert_ne!(world.bits(), world.bits());
    }
}

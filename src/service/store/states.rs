//! States and the moves between them, in one place. The database holds the same moves as constraints, and a test
//! compares the two.

use serde::{Deserialize, Serialize};

/// A move that no part of the program may make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{table}: {was} to {became} is no move; please report this")]
pub struct IllegalMove {
    /// Whose state.
    pub table: &'static str,
    /// From; `new` for a row that is not there yet.
    pub was: &'static str,
    /// To.
    pub became: &'static str,
}

/// One kind of state.
pub(crate) trait State: Copy + Eq + 'static {
    /// The table it stands in.
    const TABLE: &'static str;
    /// Every state.
    const ALL: &'static [Self];
    /// Every legal move; `None` is a row that is not there yet.
    const MOVES: &'static [(Option<Self>, Self)];

    /// As it stands in the database, in JSON and in logs.
    fn word(self) -> &'static str;

    /// The state of a word.
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.word() == word)
    }
}

/// Whether a move is legal.
pub(crate) fn require_legal<S: State>(was: Option<S>, became: S) -> Result<(), IllegalMove> {
    if S::MOVES.contains(&(was, became)) {
        return Ok(());
    }
    Err(IllegalMove { table: S::TABLE, was: was.map_or("new", S::word), became: became.word() })
}

/// How a series stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesState {
    /// Instances are coming in.
    Receiving,
    /// Nothing is missing as far as anybody can tell; its last version has a job.
    Complete,
}

impl State for SeriesState {
    const TABLE: &'static str = "series";
    const ALL: &'static [Self] = &[Self::Receiving, Self::Complete];
    const MOVES: &'static [(Option<Self>, Self)] = &[
        (None, Self::Receiving),
        (Some(Self::Receiving), Self::Complete),
        // Late instances.
        (Some(Self::Complete), Self::Receiving),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Complete => "complete",
        }
    }
}

/// How the job of a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a worker, or for its time.
    Waiting,
    /// A worker has it, under a lease.
    Working,
    /// Its structure set is under results, and its deliveries are in the outbox.
    Contoured,
    /// The series is the cause.
    Refused,
    /// The machine was the cause.
    Failed,
    /// No rule wants it.
    PassedOver,
    /// A newer version came before its turn.
    Superseded,
}

impl State for JobState {
    const TABLE: &'static str = "jobs";
    const ALL: &'static [Self] = &[
        Self::Waiting,
        Self::Working,
        Self::Contoured,
        Self::Refused,
        Self::Failed,
        Self::PassedOver,
        Self::Superseded,
    ];
    const MOVES: &'static [(Option<Self>, Self)] = &[
        (None, Self::Waiting),
        (None, Self::PassedOver),
        (Some(Self::Waiting), Self::Working),
        // Its time was not yet, as of an off-peak series outside the window.
        (Some(Self::Waiting), Self::Waiting),
        (Some(Self::Waiting), Self::Superseded),
        // It ended the process too often.
        (Some(Self::Waiting), Self::Failed),
        // A fault that may pass, a stop, or a lease that ran out.
        (Some(Self::Working), Self::Waiting),
        (Some(Self::Working), Self::Contoured),
        (Some(Self::Working), Self::Refused),
        (Some(Self::Working), Self::Failed),
        // A person's word, or the next start.
        (Some(Self::Failed), Self::Waiting),
        (Some(Self::Failed), Self::Superseded),
        (Some(Self::Refused), Self::Waiting),
        (Some(Self::PassedOver), Self::Waiting),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Contoured => "contoured",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::PassedOver => "passed_over",
            Self::Superseded => "superseded",
        }
    }
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It still has to go.
    Pending,
    /// The peer has it.
    Delivered,
    /// Given up; the reason is its last error.
    Failed,
    /// Held back by a rule of ours, with the reason; it goes when a person says so.
    Held,
}

impl State for DeliveryState {
    const TABLE: &'static str = "deliveries";
    const ALL: &'static [Self] = &[Self::Pending, Self::Delivered, Self::Failed, Self::Held];
    const MOVES: &'static [(Option<Self>, Self)] = &[
        (None, Self::Pending),
        (None, Self::Held),
        // Found delivered on disk when the database was lost.
        (None, Self::Delivered),
        // An attempt that failed for now.
        (Some(Self::Pending), Self::Pending),
        (Some(Self::Pending), Self::Delivered),
        (Some(Self::Pending), Self::Failed),
        (Some(Self::Pending), Self::Held),
        // A person's word.
        (Some(Self::Delivered), Self::Pending),
        (Some(Self::Failed), Self::Pending),
        (Some(Self::Held), Self::Pending),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Held => "held",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::store::MIGRATIONS;

    /// The constraint `TABLE_moves` of the last migration that has one.
    fn constraint(table: &str) -> Vec<String> {
        let name = format!("CONSTRAINT {table}_moves CHECK (was || '>' || state IN (");
        let sql = MIGRATIONS.iter().rev().find(|(_, _, sql)| sql.contains(&name)).unwrap().2;
        let list = sql.split_once(&name).unwrap().1.split_once(')').unwrap().0;
        let mut moves: Vec<String> =
            list.split(',').map(|m| m.trim().trim_matches('\'').to_owned()).collect();
        moves.sort();
        moves
    }

    fn moves<S: State>() -> Vec<String> {
        let mut moves: Vec<String> = S::MOVES
            .iter()
            .map(|(was, to)| format!("{}>{}", was.map_or("new", S::word), to.word()))
            .collect();
        moves.sort();
        moves
    }

    #[test]
    fn the_database_allows_the_moves_that_the_program_allows_and_no_other() {
        assert_eq!(constraint("series"), moves::<SeriesState>());
        assert_eq!(constraint("jobs"), moves::<JobState>());
        assert_eq!(constraint("deliveries"), moves::<DeliveryState>());
    }

    #[test]
    fn a_contoured_version_is_never_worked_at_again() {
        let error = require_legal(Some(JobState::Contoured), JobState::Working).unwrap_err();
        assert!(error.to_string().contains("contoured to working"), "{error}");
        assert_eq!(require_legal(Some(JobState::Failed), JobState::Waiting), Ok(()));
    }

    #[test]
    fn words_come_back() {
        assert!(JobState::ALL.iter().all(|s| JobState::of_word(s.word()) == Some(*s)));
        let json = serde_json::to_string(&JobState::PassedOver).unwrap();
        assert_eq!(json, "\"passed_over\"");
    }
}

//! `oarlock train`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::TrainArgs;

/// Runs the command.
pub(super) fn run(_args: TrainArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}

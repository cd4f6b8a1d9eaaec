//! `oarlock model`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::ModelArgs;

/// Runs the command.
pub(super) fn run(_args: ModelArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}

//! `oarlock send`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::SendArgs;

/// Runs the command.
pub(super) fn run(_args: SendArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}

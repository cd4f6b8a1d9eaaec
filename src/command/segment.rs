//! `oarlock segment`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::SegmentArgs;

/// Runs the command.
pub(super) fn run(_args: SegmentArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}

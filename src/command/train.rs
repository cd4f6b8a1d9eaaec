//! `oarlock train`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandResult, RuntimeChoice, say, tell};
use crate::cli::TrainArgs;
use crate::learning::train::{Event, Start, Validation, prospect, train};
use crate::platform::Signal;
use crate::settings::TrainRecipe;

/// Runs the command.
pub(super) fn run(args: TrainArgs, runtime: &RuntimeChoice) -> CommandResult {
    let mut recipe = TrainRecipe::read(&args.config)?;
    if !args.from.is_empty() {
        recipe.start_from = args.from;
    }
    if args.dry_run {
        say(prospect(&recipe)?);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = super::start_runtime(runtime)?;
    let stop = Stop::on_signals()?;
    let start = if args.resume { Start::Resume } else { Start::Fresh };
    let mut screen = Screen::new(&recipe);
    let outcome = train(&recipe, runtime, start, args.until, &stop.asked, &mut |event| screen.show(event));
    screen.bar.finish_and_clear();
    let outcome = outcome?;
    let share = 100.0 * outcome.waited_s / outcome.took_s.max(1e-9);
    say(format_args!(
        "{} steps, {:.1} s ({share:.2} %) of them waiting for data",
        outcome.steps, outcome.waited_s
    ));
    if let Some(model) = &outcome.model {
        let validation =
            outcome.validation.map_or_else(|| "not validated".to_owned(), |dsc| format!("mean DSC {dsc:.3}"));
        say(format_args!("model {} in {}, {validation}", recipe.name, model.display()));
    }
    say(format_args!("report in {}", recipe.output.join("report.html").display()));
    if !outcome.finished || outcome.model.is_none() {
        say("not all is done; go on with --resume");
    }
    Ok(if outcome.model.is_some() { ExitCode::SUCCESS } else { stop.exit_code() })
}

/// A bar on a terminal, plain lines elsewhere.
struct Screen {
    bar: ProgressBar,
    log_steps: u64,
    steps: u64,
    first: Option<(u64, Instant)>,
}

impl Screen {
    fn new(recipe: &TrainRecipe) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(recipe.steps).with_style(style);
        Self { bar, log_steps: recipe.rhythm.log_steps, steps: recipe.steps, first: None }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { step, losses, learning_rate, case, wait_s, .. } => {
                let (first, since) = *self.first.get_or_insert_with(|| {
                    self.bar.set_position(*step);
                    self.bar.reset_eta();
                    (*step, Instant::now())
                });
                let line = format!("{losses}, lr {learning_rate:.2e}, waited {wait_s:.2} s, {case}");
                self.bar.set_position(*step);
                self.bar.set_message(line.clone());
                if self.bar.is_hidden() && step % self.log_steps == 0 {
                    let each_s = since.elapsed().as_secs_f64() / step.saturating_sub(first).max(1) as f64;
                    let left_s = each_s * self.steps.saturating_sub(*step) as f64;
                    say(format_args!(
                        "step {step}/{}: {line}, {each_s:.2} s each, {left_s:.0} s left",
                        self.steps
                    ));
                }
            }
            Event::Validating { done, of } => {
                self.bar.set_message(format!("validating patient {} of {of}", done + 1));
            }
            Event::Validated { step, validation } => {
                validation_lines(*step, validation).iter().for_each(|line| self.line(line));
            }
            Event::PassedOver(error) => self.line(&format!("passed over: {error}")),
        }
    }

    fn line(&self, line: &str) {
        if self.bar.is_hidden() {
            say(line);
        } else {
            self.bar.println(line);
        }
    }
}

/// The mean, then one line per organ.
fn validation_lines(step: u64, validation: &Validation) -> Vec<String> {
    let mut lines = vec![format!("step {step}: validation, mean DSC over organs {:.3}", validation.mean())];
    lines.extend(validation.means().map(|(organ, dsc)| {
        let (found, cases) = validation.found(organ);
        format!("  {:<18} DSC {dsc:.3}, found in {found} of {cases}", organ.paper_name())
    }));
    lines
}

/// Set on Ctrl-C or SIGTERM: the step in hand is finished, the state written, then the run ends.
struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicU8>,
}

/// What a shell calls the end by a signal: this and the signal's number.
const ENDED_BY_SIGNAL: u8 = 128;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

impl Stop {
    fn on_signals() -> Result<Self, std::io::Error> {
        let stop = Self { asked: Arc::default(), signal: Arc::default() };
        let (asked, number) = (Arc::clone(&stop.asked), Arc::clone(&stop.signal));
        let listener = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _here = listener.enter();
            (Signal::Interrupt.listen()?, Signal::Terminate.listen()?)
        };
        std::thread::spawn(move || {
            listener.block_on(async {
                let seen = tokio::select! {
                    () = interrupt.hear() => SIGINT,
                    () = terminate.hear() => SIGTERM,
                };
                number.store(seen, Ordering::Relaxed);
                asked.store(true, Ordering::Relaxed);
                tell("stopping after this step, with a checkpoint");
            });
        });
        Ok(stop)
    }

    /// 130 after Ctrl-C, 143 after SIGTERM, 0 where nobody asked.
    fn exit_code(&self) -> ExitCode {
        match self.signal.load(Ordering::Relaxed) {
            0 => ExitCode::SUCCESS,
            number => ExitCode::from(ENDED_BY_SIGNAL + number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::organ::Organ;

    /// Larynx 0.5 and 0, found once: mean 0.25; mandible 0.75: together 0.5.
    #[test]
    fn a_validation_is_told_organ_by_organ() {
        let dice = [(Organ::Larynx, vec![0.5, 0.0]), (Organ::Mandible, vec![0.75])];
        let n_found = [(Organ::Larynx, 1), (Organ::Mandible, 1)];
        let validation =
            Validation { dice: dice.into_iter().collect(), n_found: n_found.into_iter().collect() };
        let lines = validation_lines(40, &validation);
        assert_eq!(
            lines,
            [
                "step 40: validation, mean DSC over organs 0.500",
                "  Larynx             DSC 0.250, found in 1 of 2",
                "  Mandible           DSC 0.750, found in 1 of 1",
            ]
        );
    }
}

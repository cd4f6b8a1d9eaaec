//! `oarlock train`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::TrainArgs;
use crate::learning::train::{Event, Start, prospect, train};
use crate::settings::TrainRecipe;

/// Runs the command.
pub(super) fn run(args: TrainArgs, runtime: &RuntimeChoice) -> CommandResult {
    let mut recipe = TrainRecipe::read(&args.config)?;
    recipe.start_from = args.from.or(recipe.start_from);
    if args.dry_run {
        say(prospect(&recipe)?);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = super::start_runtime(runtime)?;
    let stop = stop_on_ctrl_c()?;
    let start = if args.resume { Start::Resume } else { Start::Fresh };
    let mut screen = Screen::new(&recipe);
    let outcome = train(&recipe, runtime, start, args.until, &stop, &mut |event| screen.show(event));
    screen.bar.finish_and_clear();
    let outcome = outcome?;
    let validation =
        outcome.validation.map_or_else(|| "not validated".to_owned(), |dsc| format!("mean DSC {dsc:.3}"));
    say(format_args!(
        "{} steps; model {} in {}, {validation}",
        outcome.steps,
        recipe.name,
        outcome.model.display()
    ));
    if !outcome.finished {
        say("not all steps are done; go on with --resume");
    }
    Ok(ExitCode::SUCCESS)
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
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(recipe.steps).with_style(style);
        Self { bar, log_steps: recipe.rhythm.log_steps, steps: recipe.steps, first: None }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Step { step, losses, learning_rate, case } => {
                let (first, since) = *self.first.get_or_insert((*step, Instant::now()));
                let line = format!("{losses}, lr {learning_rate:.2e}, {case}");
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
            Event::Validated { step, validation } => {
                let organs: Vec<String> = validation
                    .means()
                    .map(|(organ, dsc)| format!("{} {dsc:.3}", organ.paper_name()))
                    .collect();
                self.line(&format!(
                    "step {step}: validation DSC {:.3} ({})",
                    validation.mean(),
                    organs.join(", ")
                ));
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

/// Set on Ctrl-C: the step in hand is finished, the state written, then the run ends.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>, std::io::Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let listener = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        listener.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                seen.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(stop)
}

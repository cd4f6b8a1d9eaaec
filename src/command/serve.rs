//! `oarlock serve`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::SetOnce;

use super::contouring::{contourer, load_model};
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::ServeArgs;
use crate::platform::{Ear, Signal};
use crate::service::{self, Reloaded, Reloader};
use crate::settings::service::DestinationSettings;
use crate::settings::{ServiceSettings, SettingsError, Template};
use crate::vocabulary::causes::with_causes;

/// Runs the command.
pub(super) fn run(args: ServeArgs, runtime: &RuntimeChoice) -> CommandResult {
    let (_early, hang_ups) = early(Signal::HangUp);
    let read = move || settings(args.clone());
    let settings = read()?;
    let mut model = load_model(runtime, &settings.network.model)?;
    model.anatomy = settings.anatomy;
    let (name, provider) = (model.name.clone(), model.network.provider());
    let usual = Template::load(&settings.structure_set.template)?;
    let contourer = contourer(model, usual, settings.formats(), runtime);
    let running = Arc::new(SetOnce::new());
    let ends = shutdown_or_hang_up(hang_ups, Arc::clone(&running), read);
    service::run(&settings, Some(contourer), ends, |service| {
        drop(running.set(service.reloader()));
        say(format_args!("{} listens on {}", settings.ae_title, service.address()));
        if let Some(address) = service.http_address() {
            say(format_args!("http://{address}/health, /ready and /metrics"));
        }
        match &settings.store {
            None => {
                let folder = settings.data_folder();
                say(format_args!("instances, results and the outbox lie in {}", folder.display()));
            }
            Some(shared) => say(format_args!("instances, results and the outbox lie in {}", shared.s3)),
        }
        say(format_args!(
            "model {name} on {provider}; research software, not for clinical use without review"
        ));
    })?;
    say("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The file's settings, or the defaults, with what the arguments say.
fn settings(args: ServeArgs) -> Result<ServiceSettings, SettingsError> {
    let mut settings = match &args.config {
        Some(path) => ServiceSettings::load(path)?,
        None => ServiceSettings::default(),
    };
    settings.data_dir = args.data_dir.or(settings.data_dir);
    settings.ae_title = args.ae_title.unwrap_or(settings.ae_title);
    settings.listen.port = args.port.unwrap_or(settings.listen.port);
    settings.http = args.http.or(settings.http);
    settings.series.quiet_time_s = args.quiet_time.unwrap_or(settings.series.quiet_time_s);
    if !args.to.is_empty() {
        settings.destinations = args.to.into_iter().map(DestinationSettings::from).collect();
    }
    settings.check(Path::new("the command line"))?;
    Ok(settings)
}

/// Hears a signal before the service has a runtime, so that one that comes during the start is kept, not the end of the
/// process. The runtime has to stay as long as the ear.
fn early(signal: Signal) -> (Option<Runtime>, Option<Ear>) {
    let heard = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let ear = {
            let _entered = runtime.enter();
            signal.listen()?
        };
        std::io::Result::Ok((runtime, ear))
    };
    match heard() {
        Ok((runtime, ear)) => (Some(runtime), Some(ear)),
        Err(error) => {
            tracing::error!(%error, ?signal, "this signal will not be heard");
            (None, None)
        }
    }
}

/// Ready when Ctrl-C or SIGTERM comes; until then, SIGHUP has settings, rules and certificates read again.
async fn shutdown_or_hang_up(
    hang_ups: Option<Ear>,
    running: Arc<SetOnce<Arc<Reloader>>>,
    read: impl Fn() -> Result<ServiceSettings, SettingsError>,
) {
    let hang_up = async {
        let Some(mut hang_ups) = hang_ups else { return std::future::pending().await };
        let reloader = running.wait().await;
        loop {
            hang_ups.hear().await;
            read_again(reloader, read());
        }
    };
    tokio::select! {
        () = shutdown() => {}
        () = hang_up => {}
    }
}

fn read_again(reloader: &Reloader, settings: Result<ServiceSettings, SettingsError>) {
    let reloaded = match settings {
        Ok(settings) => reloader.reload(&settings).map_err(|error| with_causes(&error)),
        Err(error) => Err(with_causes(&error)),
    };
    match reloaded {
        Ok(Reloaded { taken_over, at_the_next_start }) => {
            let taken_over = taken_over.join(", ");
            tracing::info!(taken_over, "settings, rules and certificates are read again");
            if !at_the_next_start.is_empty() {
                let keys = at_the_next_start.join(", ");
                tracing::warn!(
                    keys,
                    "these settings have changed and are in force after the next start only"
                );
            }
        }
        Err(error) => {
            tracing::error!(
                error,
                "settings, rules and certificates cannot be read again; those before stay in force"
            );
        }
    }
}

/// Ready when Ctrl-C or SIGTERM comes.
async fn shutdown() {
    let heard = async |signal: Signal| match signal.listen() {
        Ok(mut ear) => ear.hear().await,
        Err(error) => {
            tracing::error!(%error, ?signal, "this signal will end the process at once");
            std::future::pending().await
        }
    };
    tokio::select! {
        () = heard(Signal::Terminate) => {}
        () = heard(Signal::Interrupt) => {}
    }
}

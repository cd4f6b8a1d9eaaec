//! `oarlock serve`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use super::contouring::{contourer, load_model};
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::ServeArgs;
use crate::pipeline::tls::TlsServer;
use crate::service;
use crate::settings::service::DestinationSettings;
use crate::settings::{ServiceSettings, Template};

/// Runs the command.
pub(super) fn run(args: ServeArgs, runtime: &RuntimeChoice) -> CommandResult {
    let settings = settings(args)?;
    let mut model = load_model(runtime, &settings.network.model)?;
    model.anatomy = settings.anatomy;
    let (name, provider) = (model.name.clone(), model.network.provider());
    let usual = Template::load(&settings.structure_set.template)?;
    let contourer = contourer(model, usual, settings.formats(), runtime);
    let tls = Arc::new(OnceLock::new());
    let ends = shutdown_or_hang_up(Arc::clone(&tls));
    service::run(&settings, Some(contourer), ends, |service| {
        if let Some(server) = service.tls() {
            tls.get_or_init(|| server);
        }
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
fn settings(args: ServeArgs) -> Result<ServiceSettings, crate::settings::SettingsError> {
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

/// Ready when Ctrl-C or SIGTERM comes; until then, SIGHUP has the certificates read again.
async fn shutdown_or_hang_up(tls: Arc<OnceLock<Arc<TlsServer>>>) {
    use tokio::signal::unix::{SignalKind, signal};
    let hang_up = async {
        let mut signal = match signal(SignalKind::hangup()) {
            Ok(signal) => signal,
            Err(error) => {
                tracing::error!(%error, "SIGHUP will not be heard");
                return std::future::pending().await;
            }
        };
        while signal.recv().await.is_some() {
            match tls.get().map(|server| server.reload()) {
                Some(Ok(())) => tracing::info!("certificates are read again"),
                Some(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "certificates cannot be read again; the ones before stay in use");
                }
                None => tracing::info!("SIGHUP reads certificates again, and there are none"),
            }
        }
    };
    tokio::select! {
        () = shutdown() => {}
        () = hang_up => {}
    }
}

/// Ready when Ctrl-C or SIGTERM comes.
async fn shutdown() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::error!(%error, "SIGTERM will end the process at once");
                std::future::pending::<()>().await;
            }
        }
    };
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "Ctrl-C will end the process at once");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminate => {}
        () = interrupt => {}
    }
}

//! What `segment`, `serve` and `demo` share: a model ready to contour, and the line from a series to its structure set.

use std::error::Error;

use super::{RuntimeChoice, start_runtime};
use crate::cli::AnatomyArgs;
use crate::engine::graph::Preset;
use crate::engine::runtime::session::{Provider, SessionOptions};
use crate::learning::model::{ModelRegistry, StoredModel};
use crate::pipeline::anatomy::AnatomySettings;
use crate::pipeline::network::{ModelGraphs, Network};
use crate::pipeline::rtstruct::{Format, Identity};
use crate::pipeline::series::{CompleteSeries, CtSeries};
use crate::pipeline::structures::StructurePlan;
use crate::pipeline::{ContourError, Contoured, ContouredOrgan, ContouringModel, contour_series, fits};
use crate::service::mint::Mint;
use crate::service::{ContourFailure, Contourer, Formatted, MadeStructureSet, OrganRecord};
use crate::settings::service::StructureSetSettings;
use crate::settings::{CLOSE_UP, ServiceSettings, SettingsError, Template};
use crate::vocabulary::causes::with_causes;

/// Loads a model onto the GPU where there is one, else onto the processor; which one is logged and goes into every
/// structure set.
///
/// # Errors
/// No runtime, no such model, another hash than its manifest states, a model that only looks closer, or graphs that do
/// not load.
pub(super) fn load_model(
    runtime: &RuntimeChoice,
    name: &str,
) -> Result<ContouringModel, Box<dyn Error + Send + Sync>> {
    let stored = ModelRegistry::usual().load(name)?;
    if Preset::named(&stored.entry.preset).is_some_and(|preset| preset.close_up.is_some()) {
        let alone = "looks closer at what another has found, and cannot begin: join it to a model with `oarlock model join`";
        return Err(format!("the model {name} {alone}").into());
    }
    let runtime = start_runtime(runtime)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load_one = |provider, preset, first| {
        let graphs = graphs_of(&stored, preset, first)?;
        Network::load(graphs, runtime, &SessionOptions { threads, provider })
            .map_err(Box::<dyn Error + Send + Sync>::from)
    };
    let load = |provider| -> Result<_, Box<dyn Error + Send + Sync>> {
        let network = load_one(provider, &stored.entry.preset, "")?;
        let closer = stored.entry.close_up.as_deref();
        let closer = closer.map(|preset| load_one(provider, preset, CLOSE_UP)).transpose()?;
        if closer.as_ref().is_some_and(|closer| !fits(network.preset(), closer.preset())) {
            return Err(format!(
                "the close-up graphs of the model {name} are not for a window on a grid that divides its own: train them \
                 with the preset close-up, and the model with starter"
            )
            .into());
        }
        Ok((network, closer))
    };
    let cuda = load(Provider::Cuda { device: 0, tf32: false });
    let (network, close_up) = match cuda {
        Ok(networks) => networks,
        Err(error) => {
            tracing::debug!(error = with_causes(error.as_ref()), "no CUDA provider");
            load(Provider::Cpu)?
        }
    };
    let fingerprint = stored.fingerprint();
    tracing::info!(model = name, fingerprint, provider = %network.provider(), threads, "model loaded");
    Ok(ContouringModel {
        network,
        close_up,
        name: name.to_owned(),
        fingerprint,
        calibration: stored.calibration.clone(),
        anatomy: AnatomySettings::default(),
    })
}

/// The sections `anatomy` and `structure_set` as a settings file and the arguments have them.
///
/// # Errors
/// A settings file that cannot be used.
pub(super) fn practice(args: &AnatomyArgs) -> Result<(AnatomySettings, StructureSetSettings), SettingsError> {
    let settings = args.config.as_deref().map(ServiceSettings::load).transpose()?.unwrap_or_default();
    let mut anatomy = match &args.anatomy {
        Some(choice) => choice.applied(settings.anatomy),
        None => settings.anatomy,
    };
    anatomy.mirror |= args.mirror;
    Ok((anatomy, settings.structure_set))
}

/// What became of each organ, for records and scripts.
pub(super) fn organ_records(contoured: &Contoured, template: &Template) -> Vec<OrganRecord> {
    let Template { organs, plan, .. } = template;
    let record = |found: &ContouredOrgan| OrganRecord {
        roi_name: plan
            .of_organ(found.organ)
            .map_or_else(|| organs.entry(found.organ).roi_name.clone(), |planned| planned.name.clone()),
        found: !found.contours.contours.is_empty(),
        volume_cm3: found.volume_mm3 / 1000.0,
        detection_probability: found.detection_probability,
        expected_dsc: found.doubt.expected_dice,
        check: found.doubt.reasons.clone(),
        findings: found.findings.iter().map(ToString::to_string).collect(),
    };
    contoured.organs.iter().map(record).collect()
}

/// The graphs of a preset whose parts' names begin with this.
fn graphs_of<'a>(
    stored: &'a StoredModel,
    preset: &'a str,
    first: &str,
) -> Result<ModelGraphs<'a>, Box<dyn Error + Send + Sync>> {
    let graph = |part: &str| {
        let part = format!("{first}{part}");
        let missing =
            || format!("model {} has no {part} graph: its manifest is incomplete", stored.entry.name);
        stored.graph(&part).ok_or_else(missing)
    };
    Ok(ModelGraphs { preset, trunk: graph("trunk")?, refinement: graph("refinement")?, mask: graph("mask")? })
}

/// A series to its structure set, with a new identity.
///
/// # Errors
/// [`ContourError`].
pub(super) fn contour(
    series: &CtSeries,
    model: &mut ContouringModel,
    plan: &StructurePlan,
) -> Result<Contoured, ContourError> {
    let mut mint = Mint::from_world();
    let made = mint.now();
    let identity = Identity::mint(|| mint.bits(), made);
    contour_series(series, model, plan, identity)
}

/// The models that a service's rules may name: the settings' own, and at most one other at a time, since each takes
/// memory.
struct Bench {
    runtime: RuntimeChoice,
    /// The settings' model.
    model: ContouringModel,
    /// The model that was last asked for by a rule.
    other: Option<ContouringModel>,
}

impl Bench {
    /// The model of a name, with the settings' practice.
    fn model(&mut self, name: Option<&str>) -> Result<&mut ContouringModel, ContourFailure> {
        let Some(name) = name.filter(|name| *name != self.model.name) else { return Ok(&mut self.model) };
        let other = match self.other.take().filter(|model| model.name == name) {
            Some(model) => model,
            None => {
                let mut model = load_model(&self.runtime, name).map_err(ContourFailure::retry)?;
                model.anatomy = self.model.anatomy;
                model
            }
        };
        Ok(self.other.insert(other))
    }
}

/// What the service calls for each complete series: the structure set in each of these formats. One that cannot be
/// written in a format is held back there, with the reason, and written in the others.
pub(super) fn contourer(
    model: ContouringModel,
    usual: Template,
    formats: Vec<Format>,
    runtime: &RuntimeChoice,
) -> Contourer {
    let mut bench = Bench { runtime: runtime.clone(), model, other: None };
    Box::new(move |complete: &CompleteSeries| {
        let paths: Vec<_> = complete.instances.iter().map(|instance| instance.path.clone()).collect();
        let series = CtSeries::from_instances(&paths).map_err(by_cause)?;
        let named = complete.choice.template.as_deref().map(Template::load).transpose();
        let named = named.map_err(ContourFailure::retry)?;
        let template = named.as_ref().unwrap_or(&usual);
        let model = bench.model(complete.choice.model.as_deref())?;
        let contoured = contour(&series, model, &template.plan).map_err(|error| match error {
            ContourError::Network(_) => ContourFailure::retry(error),
            _ => by_cause(error),
        })?;
        let organs = organ_records(&contoured, template);
        let main = contoured.structure_set.encode(&Format::default()).map_err(by_cause)?;
        for note in &main.notes {
            tracing::info!(series = %complete.series_instance_uid, note, "structure set");
        }
        let others = formats.iter().filter(|format| **format != Format::default());
        let formatted = others.map(|format| Formatted {
            format: format.id(),
            part10: contoured
                .structure_set
                .encode(format)
                .map(|e| e.bytes)
                .map_err(|error| with_causes(&error)),
        });
        Ok(MadeStructureSet { formatted: formatted.collect(), part10: main.bytes, organs })
    })
}

/// The disk's faults are worth another attempt, the series' own are not.
fn by_cause(error: impl Error + Send + Sync + 'static) -> ContourFailure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let of_disk = this.downcast_ref::<std::io::Error>();
        if of_disk.is_some_and(|io| !matches!(io.kind(), InvalidData | InvalidInput | UnexpectedEof)) {
            return ContourFailure::retry(error);
        }
        cause = this.source();
    }
    ContourFailure::refuse(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::series::SeriesError;
    use crate::pipeline::volume::VolumeError;
    use crate::service::Remedy;

    #[test]
    fn a_disk_that_fails_is_tried_again_and_a_bad_series_is_not() {
        let listing = |kind: std::io::ErrorKind| SeriesError::List { path: "ct".into(), source: kind.into() };
        assert_eq!(by_cause(listing(std::io::ErrorKind::PermissionDenied)).remedy, Remedy::Retry);
        assert_eq!(by_cause(listing(std::io::ErrorKind::InvalidData)).remedy, Remedy::Refuse);
        assert_eq!(by_cause(ContourError::Volume(VolumeError::NoBody)).remedy, Remedy::Refuse);
    }
}

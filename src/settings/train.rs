//! The training recipe.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::{SettingsError, Synthetic};

/// A training recipe as written, checked; see config/train.yaml for every key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Name of the model that comes out.
    pub name: String,
    /// Architecture: `reference`, `starter` or `close-up`.
    pub preset: String,
    /// Seed of weights and of every random draw.
    pub seed: u64,
    /// Weights that a fresh run begins with, instead of drawn ones: a checkpoint, a folder with a model, or a model's name;
    /// of several the mean.
    #[serde(default, deserialize_with = "one_or_several")]
    pub start_from: Vec<PathBuf>,
    /// By which statistics the trunk's norms work.
    #[serde(default)]
    pub norms: NormStatistics,
    /// Folder for checkpoints, log and the model.
    pub output: PathBuf,
    /// Threads of ONNX Runtime.
    pub threads: usize,
    /// With how many bits products are computed.
    #[serde(default)]
    pub precision: Precision,
    /// Where patients come from.
    pub sources: Sources,
    /// Voxels of a training crop `(z, y, x)`, multiples of 16.
    pub crop: [usize; 3],
    /// How far a crop may be from the patient as scanned.
    pub augment: Augment,
    /// What synthetic patients are varied by; all of it unless said otherwise.
    #[serde(default)]
    pub synthetic: Synthetic,
    /// Steps of the run; none measures and stores what it starts from.
    pub steps: u64,
    /// Stop after this long, with a checkpoint.
    #[serde(default)]
    pub time_limit_s: Option<u64>,
    /// Adam and its schedule.
    pub optimizer: Optimizer,
    /// When the heads join and how many boxes they get.
    pub heads: Heads,
    /// How often to write and to measure.
    pub rhythm: Rhythm,
    /// What the model card says of the sources: name, licence, attribution.
    #[serde(default)]
    pub notices: Vec<String>,
    /// The recipe as it was written, for the report.
    #[serde(skip)]
    pub text: String,
}

/// By which statistics the trunk's batch norms work in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormStatistics {
    /// Those of the case in the step.
    #[default]
    Batch,
    /// The running ones of the weights that the run began with.
    Frozen,
}

/// With how many bits the training graphs compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    Full,
    /// Convolutions and matrix products with 16, weights and sums with 32; for GPUs.
    Mixed,
}

/// Where patients come from; shares are relative to each other.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Folder with `manifest.csv` and patients in the OpenKBP layout, to train on.
    pub open_kbp_train: Option<PathBuf>,
    /// The same, only to choose the checkpoint.
    pub open_kbp_validation: Option<PathBuf>,
    /// How many validation patients, the first of the manifest.
    #[serde(default)]
    pub validation_patients: usize,
    /// Share of real patients among the steps.
    #[serde(default)]
    pub open_kbp_share: f64,
    /// Data sets of `oarlock dataset`: their part `train` trains, `validation` chooses the checkpoint, `test` measures
    /// the model once, for its card.
    #[serde(default)]
    pub datasets: Vec<DatasetSource>,
    /// Folders with `labels.nii.gz` and `tissue.nii.gz` to draw synthetic patients from.
    #[serde(default)]
    pub atlases: Vec<PathBuf>,
    /// Share of synthetic patients among the steps.
    #[serde(default)]
    pub atlas_share: f64,
    /// How far patients and mask boxes with organs that few real patients annotate come before the others: 0 all alike,
    /// 1 as often as would even the organs out.
    #[serde(default)]
    pub rare_organs: f64,
}

/// A data set to train on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSource {
    /// Its folder.
    pub folder: PathBuf,
    /// Its share among the steps.
    pub share: f64,
}

/// Distances drawn evenly from `-x..=x`; see `AugmentSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Probability that a real patient is turned, scaled and bent at all.
    #[serde(default = "always")]
    pub share: f64,
    /// About z, half of it about the others, degrees.
    pub rotation_deg: f64,
    /// Relative.
    pub scaling: f64,
    /// `(z, y, x)`, mm.
    pub shift_mm: [f64; 3],
    /// Largest length of each of the waves that bend the patient, mm.
    #[serde(default)]
    pub elastic_mm: f64,
    /// Standard deviation of a smooth noise that moves points within axial planes, the same in each of them; with
    /// probability one half each also within sagittal and within coronal planes, mm.
    #[serde(default)]
    pub plane_elastic_mm: f64,
    /// Standard deviation of the Gaussian that smooths this noise, mm.
    #[serde(default)]
    pub plane_elastic_smoothness_mm: f64,
    /// Probability of a left-right mirror image.
    pub mirror: f64,
    /// Of all values.
    pub shift_hu: f64,
    /// Largest standard deviation.
    pub noise_hu: f64,
}

/// Adam and its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Rises evenly from zero over this many steps.
    pub warm_up_steps: u64,
    /// From this step on it falls like a cosine to a twentieth at the last step.
    pub decay_from_step: u64,
    /// Added to gradients, times the weight.
    pub weight_decay: f64,
    /// All gradients together are scaled down to this length.
    pub longest_gradient: f32,
    /// What a step leaves of the running mean of the weights, the mean being what is validated and shipped; 0: no mean.
    #[serde(default)]
    pub weight_average: f32,
}

/// When the heads join and how many boxes they get.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// First step with the refinement head.
    pub refinement_from_step: u64,
    /// Proposals of one refinement batch.
    pub refinement_boxes: usize,
    /// First step with the mask head.
    pub mask_from_step: u64,
    /// Mask boxes of one step.
    pub mask_boxes: usize,
    /// A mask box with more voxels is left out (bounds time and memory of a step).
    pub largest_mask_box: usize,
    /// What graphs of the mask head may hold that wait for the next box of their shape, MB (10^6 bytes).
    #[serde(default = "kept_mb")]
    pub kept_mb: u64,
}

/// How often to write and to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rhythm {
    /// Steps between checkpoints.
    pub checkpoint_steps: u64,
    /// Steps between validations.
    pub validation_steps: u64,
    /// First validation.
    pub validation_from_step: u64,
    /// Steps between lines of the log.
    pub log_steps: u64,
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a path or a list of paths")]
    enum Paths {
        None(()),
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::None(()) => Vec::new(),
        Paths::One(path) => vec![path],
        Paths::Several(paths) => paths,
    })
}

fn kept_mb() -> u64 {
    1_000
}

fn always() -> f64 {
    1.0
}

impl TrainRecipe {
    /// Reads and checks a recipe; paths in it are taken from the folder of the call.
    ///
    /// # Errors
    /// [`SettingsError`] with key, value and what is allowed.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let mut recipe: Self = super::yaml::from_str(text)
            .map_err(|source| SettingsError::Yaml { path: path.to_path_buf(), source })?;
        text.clone_into(&mut recipe.text);
        match recipe.objection() {
            None => Ok(recipe),
            Some((key, found, allowed)) => {
                Err(SettingsError::Value { path: path.to_path_buf(), key, found, allowed })
            }
        }
    }

    /// The first value that is not allowed: key, what is there, what is allowed.
    fn objection(&self) -> Option<(&'static str, String, &'static str)> {
        let name_ok = !self.name.is_empty()
            && self.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !name_ok {
            return Some(("name", self.name.clone(), "small letters, digits and hyphens"));
        }
        if self.crop.iter().any(|side| *side == 0 || side % 16 != 0 || *side > 512) {
            return Some(("crop", format!("{:?}", self.crop), "multiples of 16 up to 512"));
        }
        let positive = [
            ("threads", self.threads),
            ("heads.refinement_boxes", self.heads.refinement_boxes),
            ("heads.mask_boxes", self.heads.mask_boxes),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Some((key, "0".into(), "at least 1"));
        }
        if self.steps == 0 && self.start_from.is_empty() {
            return Some(("steps", "0".into(), "at least 1 without start_from"));
        }
        let steps = [
            ("rhythm.checkpoint_steps", self.rhythm.checkpoint_steps),
            ("rhythm.validation_steps", self.rhythm.validation_steps),
            ("rhythm.log_steps", self.rhythm.log_steps),
        ];
        if let Some((key, _)) = steps.into_iter().find(|(_, value)| *value == 0) {
            return Some((key, "0".into(), "at least 1"));
        }
        let a = &self.augment;
        let not_negative = [
            ("augment.rotation_deg", a.rotation_deg),
            ("augment.scaling", a.scaling),
            ("augment.mirror", a.mirror),
            ("augment.shift_hu", a.shift_hu),
            ("augment.noise_hu", a.noise_hu),
            ("sources.open_kbp_share", self.sources.open_kbp_share),
            ("sources.atlas_share", self.sources.atlas_share),
            ("optimizer.learning_rate", self.optimizer.learning_rate),
            ("optimizer.weight_decay", self.optimizer.weight_decay),
            ("optimizer.longest_gradient", f64::from(self.optimizer.longest_gradient)),
        ];
        if let Some((key, value)) = not_negative.into_iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return Some((key, value.to_string(), "zero or more"));
        }
        if !(0.0..1.0).contains(&self.optimizer.weight_average) {
            let found = self.optimizer.weight_average.to_string();
            return Some(("optimizer.weight_average", found, "zero or more, below 1"));
        }
        if !(0.0..=20.0).contains(&a.elastic_mm) {
            return Some(("augment.elastic_mm", a.elastic_mm.to_string(), "0 to 20"));
        }
        // Its slope has this standard deviation; at four times more, points would meet.
        if !(0.0..=a.plane_elastic_smoothness_mm / 4.0).contains(&a.plane_elastic_mm) {
            let found = a.plane_elastic_mm.to_string();
            let allowed = "zero to a quarter of plane_elastic_smoothness_mm";
            return Some(("augment.plane_elastic_mm", found, allowed));
        }
        let shares = [
            ("augment.share", a.share),
            ("augment.mirror", a.mirror),
            ("sources.rare_organs", self.sources.rare_organs),
        ];
        if let Some((key, value)) = shares.into_iter().find(|(_, v)| !(0.0..=1.0).contains(v)) {
            return Some((key, value.to_string(), "0 to 1"));
        }
        if a.scaling > 0.5 {
            return Some(("augment.scaling", a.scaling.to_string(), "0 to 0.5"));
        }
        let sources = &self.sources;
        if let Some(wrong) = sources.datasets.iter().find(|s| !s.share.is_finite() || s.share <= 0.0) {
            return Some(("sources.datasets.share", wrong.share.to_string(), "above zero"));
        }
        let real = sources.open_kbp_share > 0.0 && sources.open_kbp_train.is_some();
        let synthetic = sources.atlas_share > 0.0 && !sources.atlases.is_empty();
        if !real && !synthetic && sources.datasets.is_empty() {
            return Some(("sources", "no patients".into(), "one source with a share above 0"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
    }

    #[test]
    fn the_shipped_recipes_are_valid() {
        let names = [
            "train.yaml",
            "train-dataset.yaml",
            "ablation.yaml",
            "one-anatomy.yaml",
            "starter.yaml",
            "starter-2.yaml",
            "starter-3.yaml",
            "starter-4.yaml",
            "starter-5.yaml",
            "starter-6.yaml",
            "starter-7.yaml",
            "close-up.yaml",
        ];
        for name in names {
            let recipe = TrainRecipe::parse(&shipped(name), Path::new(name)).unwrap();
            assert!(recipe.heads.mask_from_step >= recipe.heads.refinement_from_step, "{name}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_allowed() {
        let text = shipped("train.yaml").replace("crop: [160, 240, 240]", "crop: [160, 240, 241]");
        let error = TrainRecipe::parse(&text, Path::new("mine.yaml")).unwrap_err().to_string();
        assert!(
            error.contains("crop") && error.contains("241") && error.contains("multiples of 16"),
            "{error}"
        );
        let text = shipped("train.yaml").replace("threads:", "treads:");
        assert!(matches!(TrainRecipe::parse(&text, Path::new("mine.yaml")), Err(SettingsError::Yaml { .. })));
    }
}

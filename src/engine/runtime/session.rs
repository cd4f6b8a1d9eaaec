//! Sessions of ONNX Runtime: load a graph, run it, read what comes out. Nothing else in the crate names `ort`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use ndarray::{ArrayViewD, IxDyn};
use ort::ep;
use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Tensor, TensorRef};

use crate::engine::graph::Weights;
use crate::platform::{NO_TELEMETRY, is_telemetry_decided};

/// What ONNX Runtime said; a link of the error chain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RuntimeMessage(pub(super) String);

/// Why a graph could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The library would gather data for its maker.
    #[error(
        "ONNX Runtime would gather data of its use for its maker: set {}={} before the start", NO_TELEMETRY.0, NO_TELEMETRY.1
    )]
    Telemetry,
    /// The library could not be started.
    #[error("cannot start ONNX Runtime from {}; give the path of a libonnxruntime 1.24 or later of this machine", library.display())]
    Start {
        /// Which library.
        library: PathBuf,
        /// What the loader said.
        #[source]
        source: RuntimeMessage,
    },
    /// Another library already runs in this process.
    #[error("wanted ONNX Runtime from {}, but this process already runs {}; start it again", wanted.display(), running.display())]
    AnotherLibrary {
        /// The one asked for.
        wanted: PathBuf,
        /// The one that runs.
        running: PathBuf,
    },
    /// A graph could not be loaded.
    #[error(
        "cannot load the graph {graph} on {provider}; the model file may be broken, or the provider's libraries missing"
    )]
    Load {
        /// Which graph.
        graph: String,
        /// Where it was to run.
        provider: Provider,
        /// What the runtime said.
        #[source]
        source: RuntimeMessage,
    },
    /// A run failed.
    #[error(
        "cannot run the graph {graph} on {provider}; where memory is short, use a smaller crop or another provider"
    )]
    Run {
        /// Which graph.
        graph: String,
        /// Where it runs.
        provider: Provider,
        /// What the runtime said.
        #[source]
        source: RuntimeMessage,
    },
    /// An output is missing or has another type.
    #[error(
        "wanted the output {output} of {graph} as f32, found none; graph and program are of different versions"
    )]
    Output {
        /// Which graph.
        graph: String,
        /// Which output.
        output: String,
    },
}

/// Where graphs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda {
        /// Which one, from zero.
        device: i32,
        /// Whether matrix products may round their factors to ten bits (faster, logits move by some thousandths).
        tf32: bool,
    },
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU"),
            Self::Cuda { device, .. } => write!(f, "CUDA device {device}"),
        }
    }
}

/// ONNX Runtime, started once per process.
#[derive(Debug, Clone, Copy)]
pub struct Runtime {
    environment: &'static ort::environment::Environment,
}

/// The environment and the library it came from; ONNX Runtime allows one per process.
static STARTED: OnceLock<(ort::environment::Environment, PathBuf)> = OnceLock::new();
/// Taken while starting, so that two threads do not both try.
static STARTING: Mutex<()> = Mutex::new(());

impl Runtime {
    /// Starts ONNX Runtime from a shared library, or returns the one that runs already.
    ///
    /// # Errors
    /// [`SessionError::Telemetry`] where the environment does not forbid that, [`SessionError::Start`] where the library
    /// cannot be loaded, [`SessionError::AnotherLibrary`] where this process
    /// already runs one from another path.
    pub fn start(library: &Path) -> Result<Self, SessionError> {
        // One file may have several names.
        let canonical = library.canonicalize();
        let library = canonical.as_deref().unwrap_or(library);
        let _one_at_a_time = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if STARTED.get().is_none() {
            if !is_telemetry_decided() {
                return Err(SessionError::Telemetry);
            }
            super::cuda_release::preload(library);
            let failed = |source| SessionError::Start { library: library.to_owned(), source };
            let builder =
                ort::init_from(library).map_err(|error| failed(RuntimeMessage(error.to_string())))?;
            let environment = builder.with_name("oarlock").with_telemetry(false).build();
            let environment = environment.map_err(|error| failed(message(&error)))?;
            STARTED.get_or_init(|| (environment, library.to_owned()));
        }
        let (environment, running) = STARTED.get().expect("filled by the lines above");
        if running != library {
            return Err(SessionError::AnotherLibrary {
                wanted: library.to_owned(),
                running: running.clone(),
            });
        }
        Ok(Self { environment })
    }

    /// Version and build of the library, for the run record.
    #[must_use]
    pub fn version(&self) -> &'static str {
        ort::info()
    }
}

/// How a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads of the processor; physical cores are best.
    pub threads: usize,
    /// Where it runs; a provider that is not there is an error, never a silent fall back.
    pub provider: Provider,
}

/// A graph ready to run. Belongs to one thread at a time.
pub struct Session {
    name: String,
    provider: Provider,
    inner: ort::session::Session,
    /// What is told with each run.
    options: RunOptions<HasSelectedOutputs>,
}

/// Where a session's values lie on a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// In a pool that the session keeps.
    Pool,
    /// Each by itself.
    Single,
}

/// What goes into a graph: a view in C order, not copied.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// 32-bit floats: shape, elements.
    F32(&'a [usize], &'a [f32]),
    /// 64-bit integers: shape, elements.
    I64(&'a [usize], &'a [i64]),
    /// What came out of another run.
    Kept(&'a Kept),
}

impl<'a> Input<'a> {
    /// An array, which must be in C order (any owned array that was not transposed is).
    ///
    /// # Panics
    /// If it is not: the arrays that go into graphs are made for that, so that would be our bug.
    pub fn array<D: ndarray::Dimension>(array: &'a ndarray::Array<f32, D>) -> Self {
        Self::F32(array.shape(), array.as_slice().expect("made in C order"))
    }
}

/// The weights of a training graph as its inputs, in place.
#[must_use]
pub fn weight_inputs<'a>(weights: &'a Weights, names: &'a [String]) -> Vec<(&'a str, Input<'a>)> {
    names.iter().map(|name| (name.as_str(), Input::F32(weights.shape(name), weights.values(name)))).collect()
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session of {} on {}", self.name, self.provider)
    }
}

impl Session {
    /// Loads a graph; `name` is what errors call it.
    ///
    /// # Errors
    /// [`SessionError::Load`] where the bytes are no graph, or the provider is not there.
    pub fn from_bytes(
        runtime: Runtime,
        name: &str,
        graph: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, SessionError> {
        Self::load(runtime, name, graph, options, Memory::Pool, None)
    }

    /// As [`Self::from_bytes`]; on a processor each value is asked for and given back by itself, so that nothing is held
    /// between runs: slower where values are many.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn without_pool(
        runtime: Runtime,
        name: &str,
        graph: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, SessionError> {
        Self::load(runtime, name, graph, options, Memory::Single, None)
    }

    /// As [`Self::from_bytes`]; what each run does is written down in `profile`, see [`Self::end_profile`].
    pub(super) fn profiled(
        runtime: Runtime,
        name: &str,
        graph: &[u8],
        options: &SessionOptions,
        profile: &Path,
    ) -> Result<Self, SessionError> {
        Self::load(runtime, name, graph, options, Memory::Pool, Some(profile))
    }

    fn load(
        runtime: Runtime,
        name: &str,
        graph: &[u8],
        options: &SessionOptions,
        memory: Memory,
        profile: Option<&Path>,
    ) -> Result<Self, SessionError> {
        let provider = options.provider;
        let inner = builder(runtime, options, memory).and_then(|builder| match profile {
            Some(path) => Ok(builder.with_profiling(path)?),
            None => Ok(builder),
        });
        let inner = inner.and_then(|mut builder| builder.commit_from_memory(graph));
        let inner = inner.map_err(|error| SessionError::Load {
            graph: name.to_owned(),
            provider,
            source: message(&error),
        })?;
        let options = RunOptions::new().map_err(|error| SessionError::Load {
            graph: name.to_owned(),
            provider,
            source: message(&error),
        })?;
        let options = options.with_outputs(OutputSelector::default());
        Ok(Self { name: name.to_owned(), provider, inner, options })
    }

    /// The session, giving its memory back to the system after each run instead of keeping it for the next: slower by a
    /// tenth or so, but several large graphs need the memory of the largest, not of all.
    ///
    /// Of `outputs`, by name and shape, each lies in a place of its own, always the same: one that lay among what the run
    /// needed would hold that back. Those that are not named do.
    ///
    /// # Errors
    /// [`SessionError::Load`] where the library does not know how, or memory is short.
    pub fn giving_memory_back(mut self, outputs: &[(String, Vec<usize>)]) -> Result<Self, SessionError> {
        let arena = match self.provider {
            Provider::Cpu => "cpu:0".to_owned(),
            Provider::Cuda { device, .. } => format!("cpu:0;gpu:{device}"),
        };
        let mut places = OutputSelector::default();
        let failed = |error: ort::Error| SessionError::Load {
            graph: self.name.clone(),
            provider: self.provider,
            source: message(&error),
        };
        for (name, shape) in outputs {
            let place = Tensor::<f32>::new(&Allocator::default(), shape.as_slice()).map_err(failed)?;
            places = places.preallocate(name, place);
        }
        let mut options = RunOptions::new().map_err(failed)?;
        options.set("memory.enable_memory_arena_shrinkage", arena).map_err(failed)?;
        self.options = options.with_outputs(places);
        Ok(self)
    }

    /// Where it runs.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Names of the inputs, in the graph's order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inner.inputs().iter().map(ort::value::Outlet::name)
    }

    /// Runs the graph on inputs by name; what comes out borrows the session until it is dropped.
    ///
    /// # Errors
    /// [`SessionError::Run`] where an input is missing or has another shape, or memory is short.
    pub fn run(&mut self, inputs: &[(&str, Input<'_>)]) -> Result<Outputs<'_>, SessionError> {
        let (name, provider) = (&self.name, self.provider);
        let failed =
            |error: ort::Error| SessionError::Run { graph: name.clone(), provider, source: message(&error) };
        let mut values: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for &(input, value) in inputs {
            let value = match value {
                Input::F32(shape, elements) => {
                    TensorRef::from_array_view((shape, elements)).map(SessionInputValue::from)
                }
                Input::I64(shape, elements) => {
                    TensorRef::from_array_view((shape, elements)).map(SessionInputValue::from)
                }
                Input::Kept(Kept(value)) => Ok(SessionInputValue::from(value)),
            };
            values.push((input, value.map_err(failed)?));
        }
        let values = self.inner.run_with_options(values, &self.options).map_err(failed)?;
        Ok(Outputs { graph: &self.name, values })
    }
}

impl Session {
    /// The file that the profile went to.
    pub(super) fn end_profile(mut self) -> Result<PathBuf, SessionError> {
        let (graph, provider) = (self.name, self.provider);
        let ended = self.inner.end_profiling();
        ended.map(PathBuf::from).map_err(|error| SessionError::Run {
            graph,
            provider,
            source: message(&error),
        })
    }
}

/// What came out of a run.
#[derive(Debug)]
pub struct Outputs<'s> {
    graph: &'s str,
    values: SessionOutputs<'s>,
}

/// An output that outlives the use of its session, in place: the next run of that session may write there.
#[derive(Debug)]
pub struct Kept(DynValue);

impl Outputs<'_> {
    /// Takes an output out.
    ///
    /// # Errors
    /// [`SessionError::Output`] where there is none of that name.
    pub fn take(&mut self, output: &str) -> Result<Kept, SessionError> {
        let missing = || SessionError::Output { graph: self.graph.to_owned(), output: output.to_owned() };
        self.values.remove(output).map(Kept).ok_or_else(missing)
    }

    /// An output by name, in place.
    ///
    /// # Errors
    /// [`SessionError::Output`] where there is none of that name and type.
    pub fn view(&self, output: &str) -> Result<ArrayViewD<'_, f32>, SessionError> {
        let missing = || SessionError::Output { graph: self.graph.to_owned(), output: output.to_owned() };
        let value = self.values.get(output).ok_or_else(missing)?;
        let (shape, elements) = value.try_extract_tensor::<f32>().map_err(|_another_type| missing())?;
        let sides: Result<Vec<_>, _> = shape.iter().map(|&side| usize::try_from(side)).collect();
        let sides = sides.map_err(|_negative| missing())?;
        ArrayViewD::from_shape(IxDyn(&sides), elements).map_err(|_shape| missing())
    }

    /// An output of a single element.
    ///
    /// # Errors
    /// As [`Outputs::view`].
    pub fn scalar(&self, output: &str) -> Result<f32, SessionError> {
        let view = self.view(output)?;
        view.first()
            .copied()
            .ok_or_else(|| SessionError::Output { graph: self.graph.to_owned(), output: output.to_owned() })
    }

    /// The names of the outputs, in the graph's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys()
    }
}

/// The settings that were measured to be best on a processor: no memory pattern (half the peak memory, no slower), no
/// spinning threads (same speed, spares the cores).
fn builder(runtime: Runtime, options: &SessionOptions, memory: Memory) -> ort::Result<SessionBuilder> {
    let builder = ort::session::Session::builder(runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_memory_pattern(false)?
        .with_intra_threads(options.threads)?
        .with_intra_op_spinning(false)?;
    match options.provider {
        Provider::Cpu => {
            let processor = ep::CPU::default().with_arena_allocator(memory == Memory::Pool);
            Ok(builder.with_execution_providers([processor.build()])?)
        }
        Provider::Cuda { device, tf32 } => {
            let cuda = ep::CUDA::default()
                .with_device_id(device)
                .with_tf32(tf32)
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic);
            Ok(builder.with_execution_providers([cuda.build().error_on_failure()])?)
        }
    }
}

fn message<R>(error: &ort::Error<R>) -> RuntimeMessage {
    RuntimeMessage(error.to_string())
}

/// The runtime that tests use, from `ORT_DYLIB_PATH`, or `None` with a visible line.
#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn runtime_of_tests(test: &str) -> Option<Runtime> {
    use super::library::{Release, find, folder, install};
    use super::package_index::IndexSettings;
    let fetched =
        || install(Release::of_this_machine(false)?, &folder()?, &IndexSettings::of_user(), &mut |_| {});
    let library = match find(None).map_or_else(fetched, Ok) {
        Ok(library) => library,
        Err(error) => {
            let demanded = std::env::var_os("OARLOCK_DEMAND_PEERS").is_some();
            assert!(!demanded, "{test}: no ONNX Runtime: {error}");
            eprintln!("SKIPPED {test}: no ONNX Runtime: {error}");
            return None;
        }
    };
    Some(Runtime::start(&library).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::{Preset, uanet};

    /// Sides differ on every axis, and from those the graph was built with.
    #[test]
    fn the_three_graphs_run_on_sides_of_the_callers_choice() {
        let Some(runtime) = runtime_of_tests("the_three_graphs_run") else { return };
        let weights = Weights::start(&Preset::starter(), 3);
        let options = SessionOptions { threads: 2, provider: Provider::Cpu };
        let load = |name: &str, graph: Vec<u8>| Session::from_bytes(runtime, name, &graph, &options).unwrap();

        let mut trunk = load("trunk", uanet::trunk_graph(&weights));
        let image = ndarray::Array5::from_shape_fn((1, 1, 32, 48, 64), |(_, _, z, y, x)| {
            ((z + 2 * y + 3 * x) % 7) as f32
        });
        let out = trunk.run(&[("image", Input::array(&image))]).unwrap();
        assert_eq!(out.view("f2").unwrap().shape(), [1, 16, 16, 24, 32]);
        assert_eq!(out.view("f4").unwrap().shape(), [1, 32, 8, 12, 16]);
        assert_eq!(out.view("f8").unwrap().shape(), [1, 64, 4, 6, 8]);
        assert_eq!(out.view("logits").unwrap().shape(), [1, 12, 4, 6, 8]);
        assert_eq!(out.view("deltas").unwrap().shape(), [1, 72, 4, 6, 8]);

        let mut refinement = load("refinement", uanet::refinement_graph(&weights));
        let pooled = ndarray::Array2::from_elem((5, uanet::pooled_width(weights.preset())), 0.1);
        let out = refinement.run(&[("pooled", Input::array(&pooled))]).unwrap();
        assert_eq!(out.view("class_logits").unwrap().shape(), [5, 29]);
        assert_eq!(out.view("box_deltas").unwrap().shape(), [5, 174]);

        let mut mask = load("mask", uanet::mask_graph(&weights));
        let map = |channels, d, h, w| {
            ndarray::Array5::from_shape_fn((1, channels, d, h, w), |(_, c, z, y, x)| {
                ((c + z + 2 * y + 3 * x) % 5) as f32
            })
        };
        let (image, f2, f4, f8) = (map(1, 8, 24, 16), map(16, 4, 12, 8), map(32, 2, 6, 4), map(64, 1, 3, 2));
        let mut logit = |class: i64| {
            let inputs = [
                ("image", Input::array(&image)),
                ("f2", Input::array(&f2)),
                ("f4", Input::array(&f4)),
                ("f8", Input::array(&f8)),
                ("class", Input::I64(&[1], &[class])),
            ];
            mask.run(&inputs).unwrap().view("logit").unwrap().to_owned()
        };
        let (first, last) = (logit(0), logit(27));
        assert_eq!(first.shape(), [1, 1, 8, 24, 16]);
        assert_ne!(first, last);
    }

    #[test]
    fn bytes_that_are_no_graph_are_refused_by_name() {
        let Some(runtime) = runtime_of_tests("bytes_that_are_no_graph") else { return };
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let error = Session::from_bytes(runtime, "trunk", b"nothing", &options).unwrap_err();
        assert!(error.to_string().contains("cannot load the graph trunk on CPU"));
    }
}

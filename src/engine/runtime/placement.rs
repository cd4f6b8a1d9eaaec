//! Which provider runs which node of a graph, from ONNX Runtime's own profile of one run.

use super::session::{Input, Runtime, RuntimeMessage, Session, SessionError, SessionOptions};

/// A node as the optimised graph has it, and where it ran.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedNode {
    /// `CPUExecutionProvider` or `CUDAExecutionProvider`.
    pub provider: String,
    /// Operator.
    pub operator: String,
    /// Its name; nodes that were fused or added have names of the runtime's making.
    pub name: String,
}

/// Loads a graph, runs it once, and lists its nodes.
///
/// # Errors
/// [`SessionError`] where it cannot be loaded or run, or no profile comes out.
pub fn placement(
    runtime: Runtime,
    name: &str,
    graph: &[u8],
    options: &SessionOptions,
    inputs: &[(&str, Input<'_>)],
) -> Result<Vec<PlacedNode>, SessionError> {
    let failed = |why: String| SessionError::Run {
        graph: name.to_owned(),
        provider: options.provider,
        source: RuntimeMessage(format!("its profile cannot be used: {why}")),
    };
    let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
    let mut session = Session::profiled(runtime, name, graph, options, &folder.path().join("profile"))?;
    drop(session.run(inputs)?);
    let file = session.end_profile()?;
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let events: Vec<Event> = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let mut nodes: Vec<PlacedNode> = events.into_iter().filter_map(Event::node).collect();
    nodes.sort();
    nodes.dedup();
    if nodes.is_empty() { Err(failed("no node in it".to_owned())) } else { Ok(nodes) }
}

#[derive(serde::Deserialize)]
struct Event {
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: serde_json::Value,
}

impl Event {
    /// The node that this event tells of, if it does.
    fn node(self) -> Option<PlacedNode> {
        let text = |key: &str| self.args.get(key)?.as_str().map(str::to_owned);
        let name = self.name.strip_suffix("_kernel_time")?.to_owned();
        Some(PlacedNode { provider: text("provider")?, operator: text("op_name")?, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::{Preset, Weights, uanet};
    use crate::engine::runtime::session::{Provider, runtime_of_tests};

    #[test]
    fn every_node_of_the_trunk_is_listed_with_its_provider() {
        let Some(runtime) = runtime_of_tests("every_node_of_the_trunk_is_listed") else { return };
        let graph = uanet::trunk_graph(&Weights::start(&Preset::starter(), 3));
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let image = ndarray::Array5::from_elem((1, 1, 16, 32, 16), 0.5);
        let nodes =
            placement(runtime, "trunk", &graph, &options, &[("image", Input::array(&image))]).unwrap();
        assert!(nodes.iter().all(|node| node.provider == "CPUExecutionProvider"), "{nodes:?}");
        let convolutions = nodes.iter().filter(|node| node.operator.contains("Conv")).count();
        // 2 of the stem, 26 of 13 blocks, 2 skips (the third has equal channels), the rise, 3 of the proposals.
        assert_eq!(convolutions, 2 + 26 + 2 + 1 + 3, "{nodes:?}");
    }
}

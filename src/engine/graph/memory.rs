//! How much memory the values of a graph need at most, from shapes alone.
//!
//! Nodes run in the order that ONNX Runtime takes ([`order`]); a value lives from its node to its last reader; inputs,
//! weights and outputs live all the time. An operator that only changes the shape takes no memory of its own. What a
//! library's kernels take for themselves is not in it, nor is what an allocator cannot reuse.

use std::collections::{BTreeMap, BTreeSet};

use super::onnx::NodeProto;

/// Operators whose output is their input in other sides.
const VIEWS: [&str; 4] = ["Reshape", "Squeeze", "Unsqueeze", "Identity"];

/// The most bytes that live at one time.
///
/// `bytes` are the sizes of all values by name; names in it that no node makes are inputs and weights. The outputs of the
/// graph are those that `kept` names.
pub(super) fn peak(nodes: &[NodeProto], bytes: &BTreeMap<&str, u64>, kept: &[&str]) -> u64 {
    let mut home: BTreeMap<&str, &str> = BTreeMap::new();
    for node in nodes.iter().filter(|node| is_view(node)) {
        if let (Some(input), Some(output)) = (node.input.first(), node.output.first()) {
            let first = home.get(input.as_str()).copied().unwrap_or(input);
            home.insert(output, first);
        }
    }
    let nodes = order(nodes);
    let home_of = |name: &'_ str| -> String { home.get(name).copied().unwrap_or(name).to_owned() };
    let mut last = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for name in node.input.iter().chain(&node.output) {
            last.insert(home_of(name), at);
        }
    }
    for name in kept {
        last.insert(home_of(name), nodes.len());
    }
    let made: BTreeSet<&str> = nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let mut given = bytes.clone();
    given.retain(|name, _| !made.contains(name) && !home.contains_key(name));
    let (mut living, mut most): (u64, u64) = (given.values().sum(), given.values().sum());
    let mut ends: BTreeMap<usize, u64> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !home.contains_key(output.as_str())) {
            let size = bytes.get(output.as_str()).copied().unwrap_or(0);
            living += size;
            *ends.entry(last.get(output).copied().unwrap_or(at)).or_default() += size;
        }
        most = most.max(living);
        living -= ends.remove(&at).unwrap_or(0);
    }
    most
}

/// A product reads a matrix turned over where it lies.
fn is_view(node: &NodeProto) -> bool {
    let turns = node.op_type == "Transpose" && node.attribute.iter().any(|order| order.ints == [0, 2, 1]);
    turns || VIEWS.contains(&node.op_type.as_str())
}

/// Depth first from what nobody reads, the last node of the file first, and of what a node reads again the last. Doors, which
/// are `Identity`, are taken away before.
///
/// Source: `GraphViewer`'s default order, `Graph::ReverseDFSFrom`, of ONNX Runtime 1.32.
fn order(nodes: &[NodeProto]) -> Vec<&NodeProto> {
    let nodes: Vec<&NodeProto> = nodes.iter().filter(|node| node.op_type != "Identity").collect();
    let outputs = |(at, node): (usize, &&'_ NodeProto)| -> Vec<(String, usize)> {
        node.output.iter().map(|name| (name.clone(), at)).collect()
    };
    let made: BTreeMap<String, usize> = nodes.iter().enumerate().flat_map(outputs).collect();
    let makers = |node: &NodeProto| -> BTreeSet<usize> {
        node.input.iter().filter_map(|name| made.get(name)).copied().collect()
    };
    let read: BTreeSet<usize> = nodes.iter().copied().flat_map(makers).collect();
    let mut waiting: Vec<(usize, bool)> =
        (0..nodes.len()).filter(|at| !read.contains(at)).map(|at| (at, false)).collect();
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::with_capacity(nodes.len()));
    while let Some((at, is_ready)) = waiting.pop() {
        if is_ready {
            ordered.push(nodes[at]);
        } else if seen.insert(at) {
            waiting.push((at, true));
            waiting.extend(
                makers(nodes[at]).into_iter().filter(|maker| !seen.contains(maker)).map(|at| (at, false)),
            );
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            attribute: Vec::new(),
        }
    }

    /// x and w stay (11); a (100) lives to c, its view takes nothing; b (30) dies at c (7): 11 + 100 + 30 + 7. Where the
    /// view is read once more at the end, a still lives at d (60): 11 + 100 + 7 + 60. The end is what stands first in the
    /// file: what stands last is run at once.
    #[test]
    fn a_value_lives_until_its_last_reader() {
        let nodes = [
            node("Conv", &["x", "w"], "a"),
            node("Reshape", &["a"], "view"),
            node("Conv", &["x"], "b"),
            node("Add", &["view", "b"], "c"),
            node("Relu", &["c"], "d"),
            node("Identity", &["d"], "out"),
        ];
        let sizes =
            [("x", 10), ("w", 1), ("a", 100), ("view", 100), ("b", 30), ("c", 7), ("d", 60), ("out", 60)];
        let bytes = sizes.into_iter().collect();
        assert_eq!(peak(&nodes, &bytes, &["out"]), 148);
        let mut longer = nodes.to_vec();
        longer.push(node("Relu", &["view"], "early"));
        assert_eq!(peak(&longer, &bytes, &["out"]), 148);
        longer.insert(2, node("Relu", &["view"], "late"));
        assert_eq!(peak(&longer, &bytes, &["out"]), 178);
    }
}

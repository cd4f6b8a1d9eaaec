//! A graph in two: what leads to some of its tensors, and the rest, which is handed what it needs of the first.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::{GraphBuilder, Tensor};
use super::onnx::NodeProto;

/// The two halves of a graph.
pub(super) struct Halves {
    /// Its doors out are the ends, then what is kept.
    pub(super) first: GraphBuilder,
    /// Its doors out are those of the whole; what is kept comes in.
    pub(super) second: GraphBuilder,
    /// What the first half hands to the second, by name and shape.
    pub(super) kept: Vec<(String, Vec<usize>)>,
}

/// Operators of which the second half does again what it can from what it has anyway, so that less is kept.
const AGAIN: [&str; 5] = ["Add", "Concat", "Mul", "Relu", "Reshape"];

impl GraphBuilder {
    /// Cuts behind `ends`: the first half computes them and nothing else, and each becomes a door out under its name.
    pub(super) fn cut(self, ends: &[(&str, Tensor)]) -> Halves {
        let nodes = &self.graph.node;
        let before = ancestors(nodes, ends.iter().map(|(_, tensor)| self.name(*tensor)));
        let is_first = |node: &NodeProto| before.contains(node.name.as_str());
        let behind = nodes.iter().filter(|node| !is_first(node));
        let read: BTreeSet<&str> = behind.flat_map(|node| &node.input).map(String::as_str).collect();
        // What the second half has or can make: doors, stored values, what is kept, and what follows from them.
        let stored = self.graph.initializer.iter().map(|stored| stored.name.as_str());
        let mut there: BTreeSet<&str> = self.inputs().into_iter().chain(stored).collect();
        let (mut again, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for node in nodes.iter().filter(|node| is_first(node)) {
            let outputs = node.output.iter().map(String::as_str);
            if is_cheap(node) && node.input.iter().all(|name| there.contains(name.as_str())) {
                again.insert(node.name.clone());
                there.extend(outputs);
            } else {
                let needed: Vec<&str> = outputs.filter(|name| read.contains(name)).collect();
                kept.extend(needed.iter().copied());
                there.extend(needed);
            }
        }
        let kept = self.tensors_named(&kept);
        let (mut first, mut second) = (self.clone(), self.clone());
        first.graph.node.retain(|node| before.contains(node.name.as_str()));
        second.graph.node.retain(|node| !before.contains(node.name.as_str()) || again.contains(&node.name));
        first.forget_outputs();
        for tensor in &kept {
            first.output_in_place(*tensor);
            second.input_in_place(*tensor);
        }
        for (name, tensor) in ends {
            first.output(name, *tensor);
        }
        first.drop_unread();
        second.drop_unread();
        let kept = kept.iter().map(|tensor| (self.name(*tensor).to_owned(), self.shape(*tensor).to_vec()));
        Halves { kept: kept.collect(), first, second }
    }
}

/// Also a convolution that does no more than norm each channel, which has as many groups as it has channels.
fn is_cheap(node: &NodeProto) -> bool {
    let has_one_tap = node.attribute.iter().any(|found| found.name == "kernel_shape" && found.ints == [1; 3]);
    let has_groups = node.attribute.iter().any(|found| found.name == "group" && found.i > Some(1));
    AGAIN.contains(&node.op_type.as_str()) || (has_one_tap && has_groups)
}

/// Names of the nodes that the named tensors need.
fn ancestors<'g>(nodes: &'g [NodeProto], ends: impl Iterator<Item = &'g str>) -> BTreeSet<&'g str> {
    let makers: BTreeMap<&str, &NodeProto> =
        nodes.iter().flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node))).collect();
    let (mut found, mut waiting) = (BTreeSet::new(), ends.collect::<Vec<_>>());
    while let Some(node) = waiting.pop().map(|name| makers.get(name)) {
        if let Some(node) = node.filter(|node| found.insert(node.name.as_str())) {
            waiting.extend(node.input.iter().map(String::as_str));
        }
    }
    found
}

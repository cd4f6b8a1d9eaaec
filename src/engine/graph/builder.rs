//! Writes ONNX graphs: names every node, knows every shape, keeps each constant once.
//!
//! Shapes are those of one concrete run. An input may declare a side by name instead; then the operators put after it
//! must not depend on that side, which is for the caller to keep (the inference graphs do).

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::memory;
use super::onnx::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, Side,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The operator set of every graph.
pub const OPSET: i64 = 18;
/// The ONNX file version that belongs to it.
const IR_VERSION: i64 = 9;

/// A door in of one, which nobody sets.
const ONE: &str = "one";

/// A value inside one [`GraphBuilder`]; means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tensor(usize);

/// What a training graph is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Machine {
    /// Plain operators with all sides known: the libraries of a GPU choose the arithmetic.
    #[default]
    Gpu,
    /// Convolutions by Winograd ([`super::winograd`]), and sides that only a run tells. ONNX Runtime gives tensors of equal
    /// known sides one memory from the first of them to the last, whatever lies between; what it cannot foresee it gives
    /// free.
    Processor,
}

/// What a tensor is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    F32,
    I64,
}

impl Element {
    /// ONNX's `TensorProto.DataType`.
    fn code(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::I64 => 7,
        }
    }
}

/// A setting of a node.
#[derive(Debug, Clone)]
pub(crate) enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

/// A graph in the making.
#[derive(Clone)]
pub(crate) struct GraphBuilder {
    pub(super) graph: GraphProto,
    tensors: Vec<(String, Vec<usize>)>,
    constants: BTreeMap<(Element, Vec<usize>, Vec<u8>), Tensor>,
    metadata: Vec<StringStringEntryProto>,
    outputs: Vec<(String, Tensor)>,
    /// What the graph is written for.
    pub(crate) machine: Machine,
    /// What a node of an operator, inputs and settings gives: the same is computed once.
    made: BTreeMap<(String, Vec<String>, String), Tensor>,
    /// Lists of integers that only a run tells, by the constant.
    hidden: BTreeMap<Tensor, Tensor>,
}

impl GraphBuilder {
    /// An empty graph.
    pub(crate) fn new(name: &str) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Self {
            graph,
            tensors: Vec::new(),
            constants: BTreeMap::new(),
            metadata: Vec::new(),
            outputs: Vec::new(),
            machine: Machine::Gpu,
            made: BTreeMap::new(),
            hidden: BTreeMap::new(),
        }
    }

    /// Writes a key and its text into the file.
    pub(crate) fn note(&mut self, key: &str, value: &str) {
        self.metadata.push(StringStringEntryProto { key: key.to_owned(), value: value.to_owned() });
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, tensor: Tensor) -> &[usize] {
        &self.tensors[tensor.0].1
    }

    /// How many elements a tensor has.
    pub(crate) fn len(&self, tensor: Tensor) -> usize {
        self.shape(tensor).iter().product()
    }

    /// A door in with fixed sides.
    pub(crate) fn input(&mut self, name: &str, element: Element, shape: &[usize]) -> Tensor {
        let sides = fixed(shape);
        self.input_with_sides(name, element, shape, sides)
    }

    /// A door in whose sides are declared as `sides`, while `shape` is what the builder reckons with.
    pub(crate) fn input_with_sides(
        &mut self,
        name: &str,
        element: Element,
        shape: &[usize],
        sides: Vec<Side>,
    ) -> Tensor {
        self.graph.input.push(value_info(name, element, sides));
        self.tensor(name.to_owned(), shape.to_vec())
    }

    /// A door out with fixed sides.
    pub(crate) fn output(&mut self, name: &str, tensor: Tensor) {
        let sides = fixed(self.shape(tensor));
        self.output_with_sides(name, tensor, sides);
    }

    /// A door out whose sides are declared as `sides`.
    pub(crate) fn output_with_sides(&mut self, name: &str, tensor: Tensor, sides: Vec<Side>) {
        self.graph.output.push(value_info(name, Element::F32, sides));
        self.outputs.push((name.to_owned(), tensor));
        self.graph.node.push(NodeProto {
            input: vec![self.name(tensor).to_owned()],
            output: vec![name.to_owned()],
            name: format!("output {name}"),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
        });
    }

    /// As [`Self::output`], but computed before the others: ONNX Runtime begins with what the last node of the file needs that
    /// nobody reads. Doors are no such nodes to it, a sum of one operand is.
    pub(crate) fn output_at_once(&mut self, name: &str, tensor: Tensor) {
        let same = self.unary("Sum", tensor);
        self.output(name, same);
    }

    /// A weight stored in the graph under its own name, C order.
    pub(crate) fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        self.stored(name.to_owned(), Element::F32, shape, f32_bytes(shape, values))
    }

    /// A constant, stored once however often it is asked for.
    pub(crate) fn constant(&mut self, shape: &[usize], values: &[f32]) -> Tensor {
        self.constant_bytes(Element::F32, shape, f32_bytes(shape, values))
    }

    /// A scalar constant.
    pub(crate) fn scalar(&mut self, value: f32) -> Tensor {
        self.constant(&[], &[value])
    }

    /// A door in for a number that is one where nobody sets it.
    pub(crate) fn input_of_one(&mut self, name: &str) -> Tensor {
        self.graph.input.push(value_info(name, Element::F32, Vec::new()));
        self.weight(name, &[], &[1.0])
    }

    /// A list of integers, for operators that take axes, starts or shapes.
    pub(crate) fn integers(&mut self, values: &[i64]) -> Tensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant_bytes(Element::I64, &[values.len()], bytes)
    }

    /// A list of sides for a reshape; see [`Machine::Processor`].
    pub(crate) fn sides(&mut self, shape: &[usize]) -> Tensor {
        let sides: Vec<_> = shape.iter().map(|&side| side as i64).collect();
        let sides = self.integers(&sides);
        if self.machine == Machine::Gpu {
            return sides;
        }
        if let Some(&known) = self.hidden.get(&sides) {
            return known;
        }
        if self.hidden.is_empty() {
            self.graph.input.push(value_info(ONE, Element::I64, vec![Side::Fixed(1)]));
            self.stored(ONE.to_owned(), Element::I64, &[1], 1_i64.to_le_bytes().to_vec());
        }
        let factors = vec![self.name(sides).to_owned(), ONE.to_owned()];
        let hidden = self.node_by_name("Mul", factors, vec![], vec![shape.len()]);
        self.hidden.insert(sides, hidden);
        hidden
    }

    /// Puts an operator with one output of a known shape.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        inputs: &[Tensor],
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<usize>,
    ) -> Tensor {
        let inputs = inputs.iter().map(|&input| self.name(input).to_owned()).collect();
        self.node_by_name(operator, inputs, attributes, shape)
    }

    /// As [`Self::node`], for operators where an input is left out (an empty name).
    pub(crate) fn node_by_name(
        &mut self,
        operator: &str,
        input: Vec<String>,
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<usize>,
    ) -> Tensor {
        let key = (operator.to_owned(), input.clone(), format!("{attributes:?}"));
        if let Some(&known) = self.made.get(&key) {
            return known;
        }
        let name = format!("{operator} {}", self.graph.node.len());
        self.graph.node.push(NodeProto {
            input,
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.to_owned(),
            attribute: attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        });
        let tensor = self.tensor(name, shape);
        self.made.insert(key, tensor);
        tensor
    }

    /// One part, `wanted`, of `count` along an axis, as long as the list `lengths` says.
    pub(super) fn split(
        &mut self,
        x: Tensor,
        lengths: Tensor,
        axis: usize,
        count: usize,
        wanted: usize,
        shape: Vec<usize>,
    ) -> Tensor {
        let name = format!("Split {}", self.graph.node.len());
        let part = |number| if number == wanted { name.clone() } else { format!("{name} beside {number}") };
        self.graph.node.push(NodeProto {
            input: vec![self.name(x).to_owned(), self.name(lengths).to_owned()],
            output: (0..count).map(part).collect(),
            name: name.clone(),
            op_type: "Split".to_owned(),
            attribute: vec![attribute("axis", Attribute::Int(axis as i64))],
        });
        self.tensor(name, shape)
    }

    /// The name of a tensor in the file.
    pub(crate) fn name(&self, tensor: Tensor) -> &str {
        &self.tensors[tensor.0].0
    }

    /// The most bytes that the values of one run need at a time; see [`super::memory`].
    pub(crate) fn peak_bytes(&self) -> u64 {
        let used = self.used();
        let of_graph = self.tensors.iter().filter(|(name, _)| used.contains(name.as_str()));
        let sizes = of_graph.map(|(name, shape)| {
            let elements: usize = shape.iter().product();
            (name.as_str(), 4 * elements as u64)
        });
        let kept: Vec<&str> = self.graph.output.iter().map(|door| door.name.as_str()).collect();
        memory::peak(&self.graph.node, &sizes.collect(), &kept)
    }

    /// The doors out and their shapes.
    pub(crate) fn outputs(&self) -> Vec<(String, Vec<usize>)> {
        self.outputs.iter().map(|(name, tensor)| (name.clone(), self.shape(*tensor).to_vec())).collect()
    }

    /// The bytes of the model file.
    pub(crate) fn finish(self) -> Vec<u8> {
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: self.metadata,
        }
        .encode_to_vec()
    }

    /// The tensors of these names, in the order in which they were made.
    pub(super) fn tensors_named(&self, names: &BTreeSet<&str>) -> Vec<Tensor> {
        let named = self.tensors.iter().enumerate().filter(|(_, (name, _))| names.contains(name.as_str()));
        named.map(|(at, _)| Tensor(at)).collect()
    }

    /// Forgets the doors out; the nodes that led to them are gone.
    pub(super) fn forget_outputs(&mut self) {
        self.graph.output.clear();
        self.outputs.clear();
    }

    /// A door out under the tensor's own name.
    pub(super) fn output_in_place(&mut self, tensor: Tensor) {
        let (name, shape) = self.tensors[tensor.0].clone();
        self.graph.output.push(value_info(&name, Element::F32, fixed(&shape)));
        self.outputs.push((name, tensor));
    }

    /// A door in for a tensor that no node makes any more; see [`Machine::Processor`] for its sides.
    pub(super) fn input_in_place(&mut self, tensor: Tensor) {
        let (name, shape) = &self.tensors[tensor.0];
        let sides = self.sides_of_door(name, shape);
        let info = value_info(name, Element::F32, sides);
        self.graph.input.push(info);
    }

    /// The sides that a door in declares.
    pub(super) fn sides_of_door(&self, name: &str, shape: &[usize]) -> Vec<Side> {
        let is_hidden = self.machine == Machine::Processor && shape.len() == 5;
        let side = |(axis, &side): (usize, &usize)| match axis.checked_sub(2).filter(|_| is_hidden) {
            Some(axis) => Side::Named(format!("{name} {}", ["z", "y", "x"][axis])),
            None => Side::Fixed(side as i64),
        };
        shape.iter().enumerate().map(side).collect()
    }

    /// Takes away what leads to no door out.
    pub(super) fn drop_unread(&mut self) {
        let mut read: BTreeSet<String> = self.graph.output.iter().map(|door| door.name.clone()).collect();
        let nodes = std::mem::take(&mut self.graph.node);
        for node in nodes.into_iter().rev() {
            if node.output.iter().any(|name| read.contains(name)) {
                read.extend(node.input.iter().cloned());
                self.graph.node.push(node);
            }
        }
        self.graph.node.reverse();
        self.graph.input.retain(|door| read.contains(&door.name));
        self.graph.initializer.retain(|stored| read.contains(&stored.name));
    }

    /// Names of the doors in.
    pub(super) fn inputs(&self) -> BTreeSet<&str> {
        self.graph.input.iter().map(|door| door.name.as_str()).collect()
    }

    fn used(&self) -> BTreeSet<&str> {
        let nodes = &self.graph.node;
        nodes.iter().flat_map(|node| node.input.iter().chain(&node.output)).map(String::as_str).collect()
    }

    fn constant_bytes(&mut self, element: Element, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        let key = (element, shape.to_vec(), bytes);
        if let Some(&known) = self.constants.get(&key) {
            return known;
        }
        let tensor = self.stored(format!("constant {}", self.constants.len()), element, shape, key.2.clone());
        self.constants.insert(key, tensor);
        tensor
    }

    fn stored(&mut self, name: String, element: Element, shape: &[usize], raw_data: Vec<u8>) -> Tensor {
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&side| side as i64).collect(),
            data_type: element.code(),
            name: name.clone(),
            raw_data,
        });
        self.tensor(name, shape.to_vec())
    }

    fn tensor(&mut self, name: String, shape: Vec<usize>) -> Tensor {
        self.tensors.push((name, shape));
        Tensor(self.tensors.len() - 1)
    }
}

fn f32_bytes(shape: &[usize], values: &[f32]) -> Vec<u8> {
    assert_eq!(
        shape.iter().product::<usize>(),
        values.len(),
        "values of a constant fill its shape {shape:?}"
    );
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn fixed(shape: &[usize]) -> Vec<Side> {
    shape.iter().map(|&side| Side::Fixed(side as i64)).collect()
}

fn value_info(name: &str, element: Element, sides: Vec<Side>) -> ValueInfoProto {
    let dim = sides.into_iter().map(|side| DimensionProto { side: Some(side) }).collect();
    let tensor_type = TensorTypeProto { elem_type: element.code(), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

fn attribute(name: &str, value: Attribute) -> AttributeProto {
    let empty = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Float(f) => AttributeProto { f: Some(f), kind: 1, ..empty },
        Attribute::Int(i) => AttributeProto { i: Some(i), kind: 2, ..empty },
        Attribute::Text(s) => AttributeProto { s: Some(s.as_bytes().to_vec()), kind: 3, ..empty },
        Attribute::Ints(ints) => AttributeProto { ints, kind: 7, ..empty },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_stored_once_and_every_node_has_its_own_name() {
        let mut graph = GraphBuilder::new("test");
        let x = graph.input("x", Element::F32, &[2, 3]);
        let one = graph.scalar(1.0);
        assert_eq!(one, graph.scalar(1.0));
        assert_ne!(one, graph.scalar(2.0));
        assert_ne!(one, graph.constant(&[1], &[1.0]));
        let y = graph.node("Add", &[x, one], vec![], vec![2, 3]);
        let z = graph.node("Add", &[y, one], vec![], vec![2, 3]);
        graph.output("z", z);
        let model = ModelProto::decode(graph.finish().as_slice()).unwrap();
        let written = model.graph.unwrap();
        assert_eq!(written.initializer.len(), 3);
        let mut names: Vec<_> = written.node.iter().map(|node| node.name.clone()).collect();
        names.dedup();
        assert_eq!(names.len(), 3);
        assert_eq!(written.node[2].output, ["z"]);
    }
}

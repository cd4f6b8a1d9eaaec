//! The way back over what a network's layers wrote down, by the rules of [`super::derivative`].

use std::collections::{BTreeMap, BTreeSet};

use super::builder::{GraphBuilder, Machine, Tensor};
use super::layers::{Layers, Rule, Step};

impl Layers<'_> {
    /// Gradients by `wanted` of the sum over `seeds` of `<output, seed>`; a scalar loss has the seed one.
    ///
    /// # Panics
    /// If a wanted tensor has no influence on any seed's output: then it should not be wanted.
    pub(crate) fn gradients(&mut self, seeds: &[(Tensor, Tensor)], wanted: &[Tensor]) -> Vec<Tensor> {
        let tape = std::mem::take(&mut self.tape);
        let mut needed: BTreeSet<_> = wanted.iter().copied().collect();
        for step in &tape {
            if step.inputs.iter().any(|input| needed.contains(input)) {
                needed.insert(step.output);
            }
        }
        let parts = parts_of_concatenations(&self.graph, &tape);
        let gates = self.gates(&tape, &needed, &parts);
        // Of a concatenation that is needed in part, a convolution gives no more than that part.
        let is_in_part = |step: &&Step| {
            step.inputs.iter().all(|part| parts.contains_key(part))
                && step.inputs.iter().any(|part| !needed.contains(part))
        };
        let concatenations = tape.iter().filter(|step| matches!(step.rule, Rule::Concat { .. }));
        let in_part: BTreeSet<Tensor> = concatenations.filter(is_in_part).map(|step| step.output).collect();
        let mut gradients = BTreeMap::new();
        for &(output, seed) in seeds {
            self.graph.accumulate(&mut gradients, output, seed);
        }
        for step in tape.iter().rev().filter(|step| needed.contains(&step.output)) {
            // Every use of this output lies behind it on the tape, so its gradient is complete.
            let Some(&gradient) = gradients.get(&step.output) else { continue };
            for (index, &input) in step.inputs.iter().enumerate().filter(|(_, input)| needed.contains(input))
            {
                if let (Rule::Conv(window), 0) = (&step.rule, index)
                    && in_part.contains(&input)
                {
                    let of_input = |(part, (whole, ..)): &(&Tensor, &(Tensor, usize, usize))| {
                        *whole == input && needed.contains(part)
                    };
                    for (&part, &(_, axis, start)) in parts.iter().filter(of_input) {
                        let length = self.graph.shape(part)[axis];
                        let weight = self.graph.part(step.inputs[1], axis, start, length);
                        let gradient = self.graph.conv_by_input(part, weight, *window, gradient);
                        self.graph.accumulate(&mut gradients, part, gradient);
                    }
                    continue;
                }
                let part = match gates.get(&step.output) {
                    Some(&gate) => self.graph.binary("Mul", gradient, gate),
                    None => self.graph.pull_back(step, index, gradient),
                };
                assert_eq!(
                    self.graph.shape(part),
                    self.graph.shape(input),
                    "shape of a gradient, {:?}",
                    step.rule
                );
                self.graph.accumulate(&mut gradients, input, part);
            }
        }
        self.tape = tape;
        wanted.iter().map(|tensor| *gradients.get(tensor).expect("a wanted tensor has influence")).collect()
    }

    /// What the gradient of each ReLU is multiplied by, on a processor. Written before all gradients, so that ONNX Runtime,
    /// which begins with the later of two operands, has the gradient before it.
    fn gates(&mut self, tape: &[Step], needed: &BTreeSet<Tensor>, parts: &Parts) -> BTreeMap<Tensor, Tensor> {
        if self.graph.machine == Machine::Gpu {
            return BTreeMap::new();
        }
        let opened =
            tape.iter().filter(|step| matches!(step.rule, Rule::Relu) && needed.contains(&step.output));
        let gate = |step: &Step| {
            let output = match parts.get(&step.output) {
                Some(&(whole, axis, start)) => {
                    let length = self.graph.shape(step.output)[axis];
                    self.graph.part(whole, axis, start, length)
                }
                None => step.output,
            };
            (step.output, self.graph.open(output))
        };
        opened.map(gate).collect()
    }
}

/// Tensors that nothing reads but a concatenation of channels, which nothing reads but one step: whole, axis, first element.
type Parts = BTreeMap<Tensor, (Tensor, usize, usize)>;

/// On a processor. Where the way back reads such a tensor in the whole, it need not lie beside it.
fn parts_of_concatenations(graph: &GraphBuilder, tape: &[Step]) -> Parts {
    let mut parts = BTreeMap::new();
    if graph.machine == Machine::Gpu {
        return parts;
    }
    let mut uses: BTreeMap<Tensor, usize> = BTreeMap::new();
    tape.iter().flat_map(|step| &step.inputs).for_each(|input| *uses.entry(*input).or_default() += 1);
    for step in tape {
        let Rule::Concat { axis: axis @ 1 } = step.rule else { continue };
        if uses.get(&step.output) != Some(&1) {
            continue;
        }
        let mut start = 0;
        for input in &step.inputs {
            if uses[input] == 1 {
                parts.insert(*input, (step.output, axis, start));
            }
            start += graph.shape(*input)[axis];
        }
    }
    parts
}

impl GraphBuilder {
    fn accumulate(&mut self, gradients: &mut BTreeMap<Tensor, Tensor>, of: Tensor, part: Tensor) {
        let sum = match gradients.get(&of) {
            Some(&before) => self.binary("Add", before, part),
            None => part,
        };
        gradients.insert(of, sum);
    }
}

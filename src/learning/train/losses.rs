//! The parts of a step's loss.

/// The five parts of the loss; `None` where a head has not joined yet or found nothing to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Losses {
    /// Focal loss of the proposals.
    pub proposal_class: f32,
    /// Smooth L1 of the proposals.
    pub proposal_box: f32,
    /// Cross entropy of the refinement.
    pub refinement_class: Option<f32>,
    /// Smooth L1 of the refinement.
    pub refinement_box: Option<f32>,
    /// One minus overlap, mean over the boxes of the step.
    pub mask: Option<f32>,
}

impl Losses {
    /// The sum of the parts that there are.
    #[must_use]
    pub fn total(&self) -> f32 {
        let heads = [self.refinement_class, self.refinement_box, self.mask];
        self.proposal_class + self.proposal_box + heads.into_iter().flatten().sum::<f32>()
    }
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "proposals {:.4} + {:.3}", self.proposal_class, self.proposal_box)?;
        if let Some((class, delta)) = self.refinement_class.zip(self.refinement_box) {
            write!(f, ", refinement {class:.3} + {delta:.3}")?;
        }
        self.mask.map_or(Ok(()), |mask| write!(f, ", mask {mask:.3}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.25 + 2 + 0.5: a head that has not joined is neither counted nor shown.
    #[test]
    fn only_the_parts_there_are_count() {
        let losses = Losses { proposal_class: 0.25, proposal_box: 2.0, mask: Some(0.5), ..Losses::default() };
        assert!((losses.total() - 2.75).abs() < 1e-6);
        assert_eq!(losses.to_string(), "proposals 0.2500 + 2.000, mask 0.500");
    }
}

//! From the organs that were found to the ROIs of a structure set: which are written, under which names, and what is
//! derived from them.
//!
//! Comes in: contours of organs on the planes of the CT, and a [`StructurePlan`]. Goes out: ROIs in the plan's order.
//! What a structure is derived from and is not there makes the structure not there either; nothing is invented.

mod body;
mod combine;
mod lattice;
mod margin;
mod plan;

pub use body::body_contours;
pub use combine::{Combination, combine};
pub use margin::{Directions, Margin, MarginError, WIDEST_MM, with_margin};
pub use plan::{Planned, Reference, Source, StructurePlan};

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::pipeline::contours::RoiContours;
use crate::pipeline::rtstruct::Roi;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::Grid;

/// A ring of a derived structure with less area goes, mm2: about one pixel, as for organs.
const SMALLEST_AREA_MM2: f64 = 1.0;

/// An organ as it was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FoundStructure {
    /// Where it is, holes as rings of their own; empty: not found.
    pub contours: RoiContours,
    /// Why a person should look at it, or why it is not there.
    pub remark: Option<String>,
}

impl StructurePlan {
    /// The ROIs to write, in the plan's order. `body` is asked only where the plan needs the outline.
    #[must_use]
    pub fn rois(
        &self,
        organs: &BTreeMap<Organ, FoundStructure>,
        grid: &Grid,
        body: &dyn Fn() -> FoundStructure,
    ) -> Vec<Roi> {
        let body = if self.needs_body() { body() } else { FoundStructure::default() };
        let mut made: Vec<FoundStructure> = Vec::with_capacity(self.structures.len());
        // In the plan's order each structure's operands are before it; those of one level could go side by side, but a
        // margin already uses all threads.
        for planned in &self.structures {
            made.push(self.make(planned, organs, &body, &made, grid));
        }
        let written = self.structures.iter().zip(made).filter(|(planned, _)| planned.written);
        written.map(|(planned, found)| planned.roi(found)).collect()
    }

    fn make(
        &self,
        planned: &Planned,
        organs: &BTreeMap<Organ, FoundStructure>,
        body: &FoundStructure,
        made: &[FoundStructure],
        grid: &Grid,
    ) -> FoundStructure {
        let nothing = FoundStructure::default();
        let find = |reference: &Reference| match reference {
            Reference::Organ(organ) => organs.get(organ).unwrap_or(&nothing),
            Reference::Body => body,
            Reference::Structure(index) => made.get(*index).unwrap_or(&nothing),
        };
        if let (Source::One(reference), None, None, []) =
            (&planned.source, planned.margin, &planned.within, planned.minus.as_slice())
        {
            return find(reference).clone();
        }
        let missing: Vec<String> = planned
            .operands()
            .filter(|reference| find(reference).contours.contours.is_empty())
            .map(|reference| self.name_of(reference))
            .collect();
        if !missing.is_empty() {
            let remark = format!("derived from {}, which was not found", missing.join(" and "));
            return FoundStructure { contours: RoiContours::default(), remark: Some(remark) };
        }
        let doubtful: Vec<String> = planned
            .operands()
            .filter(|reference| find(reference).remark.is_some())
            .map(|reference| self.name_of(reference))
            .collect();
        match derive(planned, &|reference| &find(reference).contours, grid) {
            Ok(contours) => {
                let remark =
                    (!doubtful.is_empty()).then(|| format!("derived from {}", doubtful.join(" and ")));
                FoundStructure { contours, remark }
            }
            Err(error) => {
                FoundStructure { contours: RoiContours::default(), remark: Some(error.to_string()) }
            }
        }
    }
}

/// Source, then margin, then what is taken away, then what it must lie within.
fn derive<'a>(
    planned: &Planned,
    find: &dyn Fn(&Reference) -> &'a RoiContours,
    grid: &Grid,
) -> Result<RoiContours, MarginError> {
    let joined = |all: &[Reference], how| {
        let mut operands = all.iter().map(find);
        let first = operands.next().cloned().unwrap_or_default();
        operands.fold(first, |so_far, next| combine(&so_far, next, how, grid))
    };
    let mut contours = match &planned.source {
        Source::One(reference) => find(reference).clone(),
        Source::Union(all) => joined(all, Combination::Union),
        Source::Intersection(all) => joined(all, Combination::Intersection),
    };
    if let Some(margin) = &planned.margin {
        contours = with_margin(&contours, margin, grid)?;
    }
    for other in &planned.minus {
        contours = combine(&contours, find(other), Combination::Difference, grid);
    }
    if let Some((within, inset)) = &planned.within {
        let room = match inset {
            Some(inset) => with_margin(find(within), inset, grid)?,
            None => find(within).clone(),
        };
        contours = combine(&contours, &room, Combination::Intersection, grid);
    }
    Ok(combine::without_specks(&contours, SMALLEST_AREA_MM2, grid))
}

/// Applies a function to the planes of contours side by side, in order.
fn by_plane<T: Send>(planes: Vec<usize>, work: impl Fn(usize) -> Vec<T> + Sync + Send) -> Vec<T> {
    planes.into_par_iter().flat_map_iter(work).collect()
}

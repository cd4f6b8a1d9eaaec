//! The truth of a scan as a structure set.

use super::Scan;
use crate::pipeline::contours::{HoleForm, contours_of_mask};
use crate::pipeline::rtstruct::{
    Description, EncodedStructureSet, Format, Identity, InterpretedType, Origin, Roi, RtstructError,
    StructureSet,
};
use crate::pipeline::series::CtSeries;
use crate::settings::StructureTemplate;

/// Colors of structures that are no organs.
const COLORS: [[u8; 3]; 6] =
    [[255, 80, 80], [80, 255, 80], [90, 140, 255], [255, 255, 60], [255, 80, 255], [60, 255, 255]];

/// The structure set whose contours run along the voxel edges of the scan's masks: filled again, they are the masks.
/// `series` is the scan as it was written and read back.
///
/// # Errors
/// [`RtstructError`] where the gate finds something: our fault.
pub fn truth_structure_set(
    scan: &Scan,
    series: &CtSeries,
    template: &StructureTemplate,
    identity: Identity,
) -> Result<EncodedStructureSet, RtstructError> {
    let rois = scan.truth.iter().enumerate().map(|(n, (structure, mask))| {
        let contours = contours_of_mask(mask, &series.grid, HoleForm::Xor);
        match structure.organ {
            Some(organ) => template.entry(organ).roi(contours),
            None => Roi {
                name: structure.name.clone(),
                organ: None,
                color: COLORS[n % COLORS.len()],
                interpreted_type: InterpretedType::Organ,
                code: None,
                laterality: None,
                contours,
                remark: None,
            },
        }
    });
    let description = Description {
        label: "Phantom truth".to_owned(),
        origin: Origin::Masks { source: "phantom, exact by construction".to_owned() },
    };
    StructureSet::describe(series, rois.collect(), description, identity).encode(&Format::default())
}

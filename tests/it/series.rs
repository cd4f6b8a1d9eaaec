//! CT series of many makers: read to the unit and to the hundredth of a millimetre, or refused with the cause.

use oarlock::pipeline::series::CtSeries;

use crate::support::shared_data;

#[test]
fn a_feet_first_series_has_its_grid() {
    let Some(data) = shared_data("a_feet_first_series_has_its_grid") else { return };
    let series = CtSeries::from_folder(&data.join("sts-ct-rtstruct/STS_004")).unwrap();
    assert_eq!(series.grid.shape(), [85, 183, 173]);
    assert!((series.grid.spacing_mm()[0] - 3.27).abs() < 1e-9);
    assert!((series.grid.origin().z - 590.14).abs() < 1e-6);
}

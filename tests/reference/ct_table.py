"""Reference numbers for tests/it/series.rs, from pydicom and SimpleITK, never from our own code.

usage: python ct_table.py DATA_FOLDER > ct_table.tsv     (pydicom with pylibjpeg-openjpeg, SimpleITK, numpy)

Rows `series`: a regular series read as a volume. Geometry comes from SimpleITK's series reader, HU from pydicom
and, where it reads them, also from SimpleITK; both must agree to the unit or the script stops.
Rows `instance`: one instance decoded alone, frame 0, HU from pydicom (SimpleITK where pydicom has no decoder).
HU is rounded to whole units and clamped below at -1024, since padding counts as air.
Columns: kind, path, shape (z y x), spacing mm (z y x), origin mm (x y z), directions (x, y, z index; x y z each),
lowest, highest, sum of HU, then value at three voxels (z y x = value).
"""

import sys
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

SERIES = [
    "sts-ct-rtstruct/STS_001/ct",
    "sts-ct-rtstruct/STS_002/ct",
    "sts-ct-rtstruct/STS_004/ct",
    "radiomics-phantom/pat_1/ct",
    "radiomics-phantom/pat_3/ct",
]
SYNTAXES = [
    "", "_BigEndianExplicit_1.2.840.10008.1.2.2", "_DeflatedExplicitVRLittleEndian_1.2.840.10008.1.2.1.99",
    "_JPEG2000LosslessOnly_1.2.840.10008.1.2.4.90", "_JPEG2000_1.2.840.10008.1.2.4.91",
    "_JPEGLSLossless_1.2.840.10008.1.2.4.80", "_JPEGLSLossy_1.2.840.10008.1.2.4.81",
    "_JPEGProcess14SV1_1.2.840.10008.1.2.4.70", "_JPEGProcess14_1.2.840.10008.1.2.4.57",
    "_JPEGProcess2_4_1.2.840.10008.1.2.4.51",
    "_LittleEndianExplicit_1.2.840.10008.1.2.1", "_LittleEndianImplicit_1.2.840.10008.1.2",
    "_RLELossless_1.2.840.10008.1.2.5",
]
INSTANCES = [
    "plastimatch-thorax/ct/CT01.dcm", "ct-head-ge-tilt/ct/15.dcm", "ct-seg-3slice-dcmqi/ct/02.dcm",
    "rt-utils/mock_data/ct_1.dcm", "rt-utils/oriented_data/1.dcm", "rtstruct-only/eclipse_breast_ct.0.dcm",
    "ct-head-small-slicer/ct/CTHead47.dcm",
    "tricky/pydicom/CT_small.dcm", "tricky/pydicom/693_J2KI.dcm", "tricky/pydicom/J2K_pixelrep_mismatch.dcm",
    "tricky/pydicom-data/693_UNCR.dcm", "tricky/pydicom-data/693_J2KR.dcm", "tricky/pydicom-data/693_UNCI.dcm",
    "tricky/pydicom-data/explicit_VR-UN.dcm", "tricky/pydicom-data/bad_sequence.dcm",
    "tricky/scout_philips/I10",
] + ["tricky/transfer-syntaxes-ct/CTImage.dcm" + (s + ".dcm" if s else "") for s in SYNTAXES]


def hu_of(path):
    d = pydicom.dcmread(path, force=True)
    try:
        raw = d.pixel_array
    except RuntimeError:  # no decoder for this transfer syntax in pydicom: GDCM's, by way of SimpleITK
        hu = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        return d, np.clip(np.rint(hu.astype(np.float64)), -1024, 32767).astype(np.int32)
    hu = np.rint(raw.astype(np.float64) * float(d.RescaleSlope) + float(d.RescaleIntercept))
    hu = np.clip(hu, -1024, 32767).astype(np.int32)
    if "PixelPaddingValue" in d:
        padding = int(d.PixelPaddingValue)
        padding = padding if not d.PixelRepresentation or padding < 32768 else padding - 65536
        hu[raw == padding] = -1024
    return d, hu


def numbers(values):
    return " ".join(repr(float(v)) for v in values)


def row(kind, path, hu, spacing, origin, directions):
    nz, ny, nx = hu.shape
    places = [(nz // 2, ny // 2, nx // 2), (nz // 3, ny // 4, (2 * nx) // 3), (nz - 1, (3 * ny) // 5, nx // 3)]
    places = [f"{z} {y} {x} = {hu[z, y, x]}" for z, y, x in places]
    print(kind, path, f"{nz} {ny} {nx}", numbers(spacing), numbers(origin), numbers(directions),
          hu.min(), hu.max(), hu.astype(np.int64).sum(), *places, sep="\t")


def series(data, path):
    folder = data / path
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder))
    reader.SetFileNames(names)
    image = reader.Execute()
    by_itk = np.clip(np.rint(sitk.GetArrayFromImage(image).astype(np.float64)), -1024, 32767).astype(np.int32)
    by_pydicom = np.stack([hu_of(name)[1] for name in names])
    assert np.array_equal(by_itk, by_pydicom), path
    d = image.GetDirection()  # row-major: column j is where index j grows
    directions = [d[r * 3 + c] for c in range(3) for r in range(3)]
    row("series", path, by_pydicom, image.GetSpacing()[::-1], image.GetOrigin(), directions)


def main():
    data = Path(sys.argv[1])
    print(f"# pydicom {pydicom.__version__}, SimpleITK {sitk.Version_VersionString()}, numpy {np.__version__}; "
          "made by tests/reference/ct_table.py")
    for path in SERIES:
        series(data, path)
    for path in INSTANCES:
        d, hu = hu_of(data / path)
        hu = hu[None]
        o = [float(v) for v in d.ImageOrientationPatient]
        normal = np.cross(o[:3], o[3:])
        row("instance", path, hu, [0.0, *map(float, d.PixelSpacing)], map(float, d.ImagePositionPatient), [*o, *normal])


if __name__ == "__main__":
    main()

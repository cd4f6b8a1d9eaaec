"""conformance_rules.py RTSTRUCT CT_DIR: rules that dciodvfy does not know, read with pydicom. Exit 1 if one is broken."""
import pathlib
import sys

import numpy as np
import pydicom


def main(rtss_path, ct_dir):
    broken = []
    rtss = pydicom.dcmread(rtss_path)
    images = {}
    for path in pathlib.Path(ct_dir).rglob("*"):
        if path.is_file():
            image = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if image.get("Modality") == "CT":
                images[image.SOPInstanceUID] = image
    first = next(iter(images.values()))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                    "StudyTime", "StudyID", "AccessionNumber", "FrameOfReferenceUID"):
        if (first.get(keyword) or "") != (rtss.get(keyword) or ""):
            broken.append(f"{keyword}: CT {first.get(keyword)!r}, structure set {rtss.get(keyword)!r}")
    if rtss.SeriesInstanceUID == first.SeriesInstanceUID or rtss.SOPInstanceUID in images:
        broken.append("a UID of the CT is used again")
    if rtss.file_meta.MediaStorageSOPInstanceUID != rtss.SOPInstanceUID:
        broken.append("file meta names another instance")
    frame = rtss.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    if {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} != set(images):
        broken.append("the images referenced are not the images of the series")
    numbers = [roi.ROINumber for roi in rtss.StructureSetROISequence]
    names = [roi.ROIName for roi in rtss.StructureSetROISequence]
    if len(set(numbers)) != len(numbers) or len({n.lower() for n in names}) != len(names):
        broken.append("ROI numbers or names are not unique")
    if [n for n in names if not 1 <= len(n) <= 16]:
        broken.append("a name has not 1 to 16 characters")
    for sequence in (rtss.ROIContourSequence, rtss.RTROIObservationsSequence):
        if sorted(item.ReferencedROINumber for item in sequence) != sorted(numbers):
            broken.append("items and ROIs do not match")
    for roi in rtss.ROIContourSequence:
        for n, contour in enumerate(roi.get("ContourSequence", [])):
            where = f"ROI {roi.ReferencedROINumber} contour {n + 1}"
            texts = [str(v) for v in contour.ContourData]
            if max(map(len, texts)) > 16:
                broken.append(f"{where}: DS over 16 characters")
            points = np.array(texts, dtype=float).reshape(-1, 3)
            if len(points) < 3 or len(points) != contour.NumberOfContourPoints:
                broken.append(f"{where}: {len(points)} points, {contour.NumberOfContourPoints} said")
            if len(points) > 1 and (points[0] == points[-1]).all():
                broken.append(f"{where}: the first point is there again at the end")
            image = images.get(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
            if image is None:
                broken.append(f"{where}: names an image that is not there")
                continue
            o = np.array(image.ImageOrientationPatient, dtype=float)
            off = abs((points - np.array(image.ImagePositionPatient, dtype=float)) @ np.cross(o[:3], o[3:])).max()
            if off > 0.01:
                broken.append(f"{where}: {off:.4f} mm off its image")
    for sentence in broken:
        print("rule:", sentence)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

"""Loading a CT series, SimpleITK beside Oarlock: 200 slices of 512 x 512, uncompressed, page cache warm.

usage: python ct_load.py make FOLDER     writes the series (105 MB)
       python ct_load.py time FOLDER     median of 5 of SimpleITK's load, and the sum of HU
Oarlock's side: OARLOCK_BENCH_SERIES=FOLDER cargo test --release --test it bench_load -- --ignored --nocapture
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def make(folder):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    z, y, x = np.ogrid[:200, :512, :512]
    for k in range(200):
        inside = ((x - 250) / 180.0) ** 2 + ((y - 270) / 220.0) ** 2 < 1
        hu = np.where(inside[0] if inside.ndim == 3 else inside, 40, -1000) + rng.integers(-20, 20, (512, 512))
        d = pydicom.Dataset()
        d.file_meta = pydicom.dataset.FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.Modality, d.PatientID, d.PatientName = "CT", "BENCH", "Bench"
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.ImagePositionPatient = [-250.0, -240.0, round(-300 + 2.5 * k, 3)]
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.PixelSpacing = [0.9765625, 0.9765625]
        d.Rows = d.Columns = 512
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept, d.InstanceNumber = 1, -1024, k + 1
        d.PixelData = (np.maximum(hu, -1024) + 1024).astype("<i2").tobytes()
        d.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)


def load(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


if __name__ == "__main__":
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "make":
        make(folder)
    else:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            image = load(folder)
            seconds.append(time.perf_counter() - start)
        total = sitk.GetArrayViewFromImage(image).astype(np.int64).sum()
        print(f"SimpleITK: load {statistics.median(seconds):.3f} s "
              f"[{min(seconds):.3f}-{max(seconds):.3f}], sum of HU {total}")

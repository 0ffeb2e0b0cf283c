"""DICOM files made with pydicom: CT series and X-rays as they are found, to be spoiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid


def write_dicom(path: Path, pixels: np.ndarray, kind: str, **tags: Any) -> None:
    """One DICOM image of unsigned 16 bits (CT: signed), with the given tags; a tag that is None is left out."""
    storage = CTImageStorage if kind == "CT" else XRayAngiographicImageStorage
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = kind
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(kind == "CT")
    dataset.PixelData = pixels.astype(np.int16 if kind == "CT" else np.uint16).tobytes()
    for name, value in tags.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def write_series(folder: Path, hu: np.ndarray, positions: list[float], series: str = "1.2.3.4", prefix: str = "") -> None:
    """A CT series (K, J, I) with its slices at the given positions, mm."""
    folder.mkdir(exist_ok=True)
    for number, (plane, position) in enumerate(zip(hu, positions)):
        write_dicom(
            folder / f"{prefix}{series[-1]}_{number:03d}.dcm",
            plane,
            "CT",
            SeriesInstanceUID=series,
            StudyInstanceUID="1.2.3",
            FrameOfReferenceUID="1.2.3.9",
            InstanceNumber=number + 1,
            ImagePositionPatient=[0.0, 0.0, position],
            ImageOrientationPatient=[1.0, 0, 0, 0, 1, 0],
            PixelSpacing=[5.0, 5.0],
            RescaleSlope=1,
            RescaleIntercept=0,
        )

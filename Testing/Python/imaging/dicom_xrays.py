"""DICOM X-rays for the tests: small images with the tags that a test asks for."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

from SphericalRegLib.imaging.dicom import read_dicom_geometry

ROWS, COLUMNS = 40, 60
GOOD = {"DistanceSourceToDetector": 1020, "DistanceSourceToPatient": 700, "ImagerPixelSpacing": [0.3, 0.25]}


def counts(frames: int = 1) -> np.ndarray:
    """(frames, H, W) 12-bit transmission images; frame k is k times as thick."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    body = 2.0 * np.clip(1 - ((x - 25) / 30) ** 2 - ((y - 22) / 25) ** 2, 0, None)
    return np.stack([np.round(4000 * np.exp(-(k + 1) * body)) for k in range(frames)]).astype(np.uint16)


def write(path, pixels: np.ndarray | None = None, modality: str = "XA", **tags):
    """An X-ray with the given tags; None writes an empty element, ... leaves it out."""
    pixels = counts() if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    if len(pixels) > 1:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for keyword, value in tags.items():
        if value is ...:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def values(path, frame: int = 0):
    return read_dicom_geometry(path, frame).values

"""The module's parameter node."""

from __future__ import annotations

from typing import Annotated, Union

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTableNode,
    vtkMRMLVectorVolumeNode,
)
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from .choices import ALL_VIEWS, INITIAL_POSES, MODELS, NO_MODEL, PICTURES


@parameterNodeWrapper
class SphericalRegParameterNode:
    """All choices of the panel, saved with the scene. Lengths that are not known are 0; pairs are column and row; chosenParts is a JSON list of
    labels or segment IDs."""

    ctVolume: vtkMRMLScalarVolumeNode
    xrayVolume: Union[vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode, None]  # noqa: UP007  # the wrapper knows this spelling alone
    frame: Annotated[int, WithinRange(0, 100000)] = 0
    allFrames: bool = False
    partsNode: Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007
    chosenParts: str = ""
    maskVolume: vtkMRMLLabelMapVolumeNode
    sddMm: Annotated[float, WithinRange(0, 5000)] = 0.0
    spacingColumnMm: Annotated[float, WithinRange(0, 20)] = 0.0
    spacingRowMm: Annotated[float, WithinRange(0, 20)] = 0.0
    principalColumnPx: Annotated[float, WithinRange(-20000, 20000)] = 0.0
    principalRowPx: Annotated[float, WithinRange(-20000, 20000)] = 0.0
    intensity: Annotated[str, Choice(["counts", "display", "line_integral"])] = "counts"
    inverted: bool = False
    mirrored: bool = False
    initial: Annotated[str, Choice(list(INITIAL_POSES))] = ALL_VIEWS
    primaryDeg: Annotated[float, WithinRange(-180, 180)] = 0.0
    secondaryDeg: Annotated[float, WithinRange(-90, 90)] = 0.0
    ctPoints: vtkMRMLMarkupsFiducialNode
    xrayPoints: vtkMRMLMarkupsFiducialNode
    live: bool = False
    model: Annotated[str, Choice(list(MODELS))] = NO_MODEL
    modelPath: str = ""
    anatomy: str = ""
    trainView: Annotated[str, Choice(["ap", "pa", "left", "right"])] = "ap"
    trainPrimaryDeg: Annotated[float, WithinRange(0, 180)] = 45.0
    trainSecondaryDeg: Annotated[float, WithinRange(0, 90)] = 25.0
    trainMinutes: Annotated[float, WithinRange(0.1, 10000)] = 20.0
    trainPath: str = ""
    outputTransform: vtkMRMLLinearTransformNode
    picture: Annotated[str, Choice(list(PICTURES))] = PICTURES[0]
    drrOpacity: Annotated[float, WithinRange(0, 1)] = 0.5
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    seed: Annotated[int, WithinRange(0, 1000000)] = 0
    moveXray: bool = False
    placedXray: vtkMRMLScalarVolumeNode
    placedFrom: vtkMRMLScalarVolumeNode
    drrVolume: vtkMRMLScalarVolumeNode
    framesTable: vtkMRMLTableNode
    batchTable: vtkMRMLTableNode

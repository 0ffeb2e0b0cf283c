"""`slicer.app.coreIOManager()`: reads and writes through Slicer's real module logics and storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

from .qt_standin import StandInError

KINDS = {
    "SceneFile": (".mrb", ".mrml"),
    "TransformFile": (".tfm", ".h5", ".txt"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".tif", ".dcm", ".png"),
}


class IOManager:
    """Enough for slicer.util's load and save functions."""

    def __init__(self, logics: dict[str, Any]) -> None:
        self._logics = logics

    def fileType(self, name: str) -> str:
        return next((kind for kind, suffixes in KINDS.items() if name.lower().endswith(suffixes)), "NoFile")

    def fileWriterFileType(self, _node: Any) -> str:
        return "any"

    def loadNodes(self, kind: str, properties: dict[str, Any], nodes: Any, messages: Any = None) -> bool:
        name, scene = str(properties["fileName"]), slicer.mrmlScene
        node_name = properties.get("name") or Path(name).name.split(".")[0]
        if kind == "SceneFile":
            if properties.get("clear"):
                scene.Clear()
            if name.endswith(".mrb"):
                return bool(scene.ReadFromMRB(name, False, messages))
            scene.SetURL(name)
            return bool(scene.Import(messages))
        if kind == "VolumeFile":
            node = self._logics["Volumes"].AddArchetypeVolume(name, node_name, int(bool(properties.get("labelmap"))), vtk.vtkStringArray())
        elif kind == "TransformFile":
            node = self._logics["Transforms"].AddTransform(name, scene)
        elif kind == "MarkupsFile":
            node = scene.GetNodeByID(self._logics["Markups"].LoadMarkups(name, node_name, messages))
        else:
            raise StandInError(f"no stand-in loads {kind} ({name})")
        if node is not None:
            nodes.AddItem(node)
        return node is not None

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        name, scene = str(properties["fileName"]), slicer.mrmlScene
        if kind == "SceneFile":
            if name.endswith(".mrb"):
                return bool(scene.WriteToMRB(name, None, messages))
            scene.SetURL(name)
            scene.SetRootDirectory(str(Path(name).parent))
            return bool(scene.Commit(name))
        node = scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(name)
        return bool(storage.WriteData(node))

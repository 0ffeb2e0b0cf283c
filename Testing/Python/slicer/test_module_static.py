"""What the harness cannot see: names that PythonQt has not, the .ui file's bindings, CMake's lists. Needs nothing of Slicer."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "SphericalReg"
SOURCES = sorted(MODULE.rglob("*.py"))
UI = ElementTree.parse(MODULE / "Resources" / "UI" / "SphericalReg.ui").getroot()

# parameter type -> widgets that Slicer's parameterNodeWrapper connects to it
CONNECTORS = {
    "bool": {"QCheckBox"},
    "int": {"QSpinBox"},
    "float": {"QDoubleSpinBox", "ctkSliderWidget"},
    "str": {"QLineEdit"},
    "Choice": {"QComboBox"},
    "node": {"qMRMLNodeComboBox"},
}
# names of qt, ctk and slicer that exist in Slicer 5.10 and later, with Qt 5 and with Qt 6; a new one is looked up, then added
QT_NAMES = {"QIcon", "Qt", "QListWidgetItem", "QTableWidgetItem", "QTimer"}
SLICER_NAMES = {
    "app",
    "dicomDatabase",
    "modules",
    "mrmlScene",
    "packaging",
    "util",
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLLinearTransformNode",
    "vtkMRMLMarkupsFiducialNode",
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLSliceCompositeNode",
    "vtkMRMLTableNode",
    "vtkMRMLTransformableNode",
    "vtkMRMLVolumeNode",
}
SIGNATURES = {
    "clicked(bool)",
    "contentsCollapsed(bool)",
    "editTextChanged(QString)",
    "itemChanged(QListWidgetItem*)",
    "startupCompleted()",
    "timeout()",
    "toggled(bool)",
}
FILE_SCOPE = {"slicer", "vtk", "qt", "ctk", "numpy", "scipy", "SimpleITK", "SphericalRegLib", "SphericalRegModule"} | set(sys.stdlib_module_names)


def nodes(kind: type) -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}", node


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_only_known_names_of_qt_and_slicer() -> None:
    used = [(where, dotted(node).split(".")) for where, node in nodes(ast.Attribute)]
    wrong = [(where, parts) for where, parts in used if parts[0] == "qt" and parts[1] not in QT_NAMES]
    wrong += [(where, parts) for where, parts in used if parts[0] == "slicer" and parts[1] not in SLICER_NAMES]
    assert not wrong


def test_enums_are_flat() -> None:
    """qt.Qt.CursorShape.WaitCursor is Qt 6 only."""
    deep = [(where, dotted(node)) for where, node in nodes(ast.Attribute) if dotted(node).startswith("qt.") and dotted(node).count(".") > 2]
    assert not deep


def test_qt_objects_are_made_with_positional_arguments() -> None:
    calls = [(where, node) for where, node in nodes(ast.Call) if dotted(node.func).startswith(("qt.Q", "ctk.ctk"))]  # type: ignore[attr-defined]
    assert calls
    assert not [where for where, node in calls if node.keywords]  # type: ignore[attr-defined]


def test_signals_are_connected_by_known_signatures() -> None:
    """A slot of "clicked(bool)" takes `checked`: PythonQt hands it over to any parameter that is free."""
    connects = [(where, node) for where, node in nodes(ast.Call) if isinstance(node.func, ast.Attribute) and node.func.attr == "connect"]  # type: ignore[attr-defined]
    assert connects
    for where, node in connects:
        signature = node.args[0]  # type: ignore[attr-defined]
        assert isinstance(signature, ast.Constant), where
        assert signature.value in SIGNATURES, where
    slots = {node.args[1].attr for _, node in connects if node.args[0].value in ("clicked(bool)", "toggled(bool)")}  # type: ignore[attr-defined]
    for where, node in nodes(ast.FunctionDef):
        if node.name in slots:  # type: ignore[attr-defined]
            assert [argument.arg for argument in node.args.args] == ["self", "checked"], where  # type: ignore[attr-defined]


def test_file_scope_imports_what_slicer_has() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= FILE_SCOPE, path


def test_nothing_but_the_panel_knows_its_sections() -> None:
    """What scripts and workers use needs no window."""
    for path in (MODULE / "SphericalRegModule").glob("*.py"):
        if path.stem != "panel" and not path.stem.endswith("_section"):
            imports = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
            names = {name for node in imports for name in (node.module or "", *(alias.name for alias in node.names))}
            assert not {name for name in names if name == "panel" or name.endswith("_section")}, path


def test_the_worker_touches_neither_qt_nor_mrml() -> None:
    for name in ("job.py", "batch.py", "training.py", "models.py"):
        tree = ast.parse((MODULE / "SphericalRegModule" / name).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"qt", "ctk", "slicer", "vtk"}, name


def test_an_older_slicer_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer 5.8 has Python 3.9."""
    source = (MODULE / "SphericalRegModule" / "__init__.py").read_text(encoding="utf-8")
    exec(compile(source, "__init__.py", "exec"), {"__name__": "SphericalRegModule"})
    monkeypatch.setattr(sys, "version_info", (3, 9, 10))
    with pytest.raises(ImportError, match=r"needs Slicer 5\.10 or newer"):
        exec(compile(source, "__init__.py", "exec"), {"__name__": "SphericalRegModule"})


def test_translated_texts_are_constants() -> None:
    calls = [(where, node) for where, node in nodes(ast.Call) if isinstance(node.func, ast.Name) and node.func.id == "_"]  # type: ignore[attr-defined]
    assert calls
    assert not [where for where, node in calls if not isinstance(node.args[0], ast.Constant)]  # type: ignore[attr-defined]


# The .ui file ------------------------------------------------------------------------------------------------------------------------------------


def parameter_types() -> dict[str, str]:
    tree = ast.parse((MODULE / "SphericalRegModule" / "parameters.py").read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SphericalRegParameterNode")
    types = {}
    for item in body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = ast.unparse(item.annotation)
            plain = re.sub(r"Annotated\[(\w+).*", r"\1", text)
            types[item.target.id] = "node" if text.startswith(("vtkMRML", "Union[vtkMRML")) else "Choice" if "Choice" in text else plain
    return types


def widgets() -> dict[str, ElementTree.Element]:
    return {widget.get("name", ""): widget for widget in UI.iter("widget")}


def property_of(widget: ElementTree.Element, name: str) -> str | None:
    found = widget.find(f"property[@name='{name}']")
    return None if found is None else "".join(found.itertext()).strip()


def test_every_binding_has_a_connector() -> None:
    types = parameter_types()
    bound = {name: widget.get("class") for widget in widgets().values() if (name := property_of(widget, "SlicerParameterName"))}
    assert bound
    assert set(bound) <= set(types)
    assert not {name: cls for name, cls in bound.items() if cls not in CONNECTORS[types[name]]}  # type: ignore[index]
    assert set(types) - set(bound) == {
        "chosenParts",
        "modelPath",
        "trainPath",
        "placedXray",
        "placedFrom",
        "drrVolume",
        "framesTable",
        "batchTable",
    }


def test_every_node_selector_follows_the_scene() -> None:
    selectors = {name for name, widget in widgets().items() if widget.get("class") == "qMRMLNodeComboBox"}
    connected = {connection.findtext("receiver") for connection in UI.iter("connection")}
    assert selectors == connected
    for connection in UI.iter("connection"):
        assert connection.findtext("sender") == "SphericalReg"
        assert connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        assert connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"


def test_the_ui_file_suits_qt_5_and_6() -> None:
    assert UI.find("widget").get("class") == "qMRMLWidget"  # type: ignore[union-attr]
    assert not [enum.text for enum in UI.iter("enum") if (enum.text or "").count("::") > 1]
    names = [widget.get("name") for widget in UI.iter("widget")]
    assert len(names) == len(set(names))


def test_the_code_uses_widgets_that_exist() -> None:
    used = {dotted(node).rpartition("ui.")[2] for _, node in nodes(ast.Attribute) if re.search(r"(^|\.)ui\.\w+$", dotted(node))}
    labels = {f"{name}OriginLabel" for name in ("sdd", "spacing", "principal", "intensity", "inverted", "mirrored")}
    assert used | labels <= set(widgets())


def test_every_choice_has_a_tool_tip() -> None:
    interactive = ("QPushButton", "QSpinBox", "QDoubleSpinBox", "QComboBox", "QCheckBox", "qMRMLNodeComboBox", "ctkPathLineEdit", "QLineEdit")
    assert not [name for name, w in widgets().items() if w.get("class") in interactive and not property_of(w, "toolTip") and name != "registerButton"]


# CMake and the catalogue -------------------------------------------------------------------------------------------------------------------------


def test_cmake_lists_every_file() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "Testing" / "cmake_lists.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_catalogue_entry_fits_cmake() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    entry = json.loads((ROOT / "SphericalReg.json").read_text(encoding="utf-8"))
    assert "project(SphericalReg)" in cmake
    assert re.search(r'set\(EXTENSION_DEPENDS "(.*)"\)', cmake).group(1).split() == entry["build_dependencies"]  # type: ignore[union-attr]
    required = {"$schema", "category", "scm_url"}
    optional = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "dicom_support_rule", "enabled", "tier"}
    assert required <= set(entry) <= required | optional
    for key in ("ICONURL", "SCREENSHOTURLS"):  # the catalogue's checker reads them literally
        for url in re.search(rf'set\(EXTENSION_{key} "(.*)"\)', cmake).group(1).split():  # type: ignore[union-attr]
            assert (ROOT / url.partition("/main/")[2]).is_file(), url


def test_an_installed_extension_works(tmp_path: Path) -> None:
    """Configured and installed by CMake with a stand-in for Slicer's macros: the package imports and finds its data, away from the checkout."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs CMake")
    build, prefix = tmp_path / "build", tmp_path / "installed"
    slicer_dir = ROOT / "Testing" / "Harness" / "cmake"
    options = [f"-DSlicer_DIR={slicer_dir}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    subprocess.run([cmake, "-S", str(ROOT), "-B", str(build), *options], check=True, capture_output=True, text=True)
    subprocess.run([cmake, "--install", str(build)], check=True, capture_output=True, text=True)
    code = (
        "import SphericalRegLib; from SphericalRegLib.resources import resource_path; from SphericalRegModule import job\n"
        "print(SphericalRegLib.__file__, resource_path('SampleData/pelvis.nii.gz'), job.__file__, sep='\\n')"
    )
    for folder in (build, prefix):
        modules = folder / "lib" / "Slicer" / "qt-scripted-modules"
        assert (modules / "SphericalReg.py").is_file()
        assert (modules / "Resources" / "UI" / "SphericalReg.ui").is_file()
        assert not (modules / "job.py").exists(), "Slicer would take it for a module"
        done = subprocess.run([sys.executable, "-S", "-c", code], cwd=modules, capture_output=True, text=True, check=True, env={"PATH": ""})
        assert all(line.startswith(str(modules.resolve())) for line in done.stdout.split()), done.stdout

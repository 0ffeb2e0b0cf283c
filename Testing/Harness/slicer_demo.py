#!/usr/bin/env python3
"""The module with its sample case, on the harness or, where the environment variable SLICER names a Slicer executable, in Slicer itself.

    python run.py slicer-demo                        opens a window
    python run.py slicer-demo --screenshot FILE      registers the sample case, saves a picture of the result and ends; needs no display
    python run.py slicer-demo --screenshots FOLDER   clicks through it and saves a picture of each state (the harness alone)
    python run.py slicer-demo --measure              prints what takes how long, and whether anything is left behind (some minutes)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULE = ROOT / "SphericalReg" / "SphericalReg.py"
WINDOW = (1440, 900)
PANEL_WIDTH = 530
PICTURE_WIDTH = 1200
COLOURS = 256
MINUTES, CURVE_POINTS = 1.5, 7


def in_slicer(executable: str, picture: Path | None, measured: Sequence[int] | None) -> int:
    """Open the module with the sample case in a real Slicer."""
    lines = ["import slicer", "slicer.util.selectModule('SphericalReg')"]
    if measured is not None:
        lines += [f"import sys; sys.path.insert(0, {str(HERE)!r}); import measure"]
        lines += ["from SphericalRegModule import layout; layout.show_layout()"]
        lines += [f"slicer.util.exit(measure.measure(lambda: slicer.modules.SphericalRegWidget, *{tuple(measured)}))"]
    elif picture is not None:
        lines += [f"import sys; sys.path.insert(0, {str(HERE)!r}); import measure", "panel = slicer.modules.SphericalRegWidget"]
        lines += ["measure.choose_sample(panel)", "measure.register(panel)", "slicer.app.processEvents()"]
        lines += [f"slicer.util.mainWindow().grab().save({str(picture.resolve())!r})", "slicer.util.exit(0)"]
    else:
        lines += ["from SphericalRegModule.sample_data import choose_in_panel, load_sample_case; choose_in_panel(*load_sample_case())"]
        lines += ["slicer.modules.SphericalRegWidget.enter()"]
    return subprocess.call([executable, "--additional-module-path", str(MODULE.parent), "--python-code", "\n".join(lines)])


class Demo:
    """The panel in a scroll area, beside the views."""

    def __init__(self) -> None:
        from PySide6 import QtCore, QtWidgets
        from slicer_harness.modules import open_module

        self.widget, panel = open_module(MODULE)
        self.window = QtWidgets.QWidget()
        self._row = QtWidgets.QHBoxLayout(self.window)
        self.scroll = QtWidgets.QScrollArea()
        self.scroll.setWidgetResizable(True)
        self.scroll.setWidget(panel)
        self.scroll.setFixedWidth(PANEL_WIDTH)
        self.scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._row.addWidget(self.scroll)
        self._views: Any = None
        self._viewport: Any = None
        self.window.resize(*WINDOW)
        self.show_views()
        self.window.show()

    def show_views(self) -> None:
        """The views of the present layout, drawn at their present size."""
        import slicer
        from slicer_harness.views import View

        manager = slicer.app.layoutManager()
        if manager.layout != self._views:
            viewport = manager.viewport()
            if self._viewport is not None:
                self._viewport.hide()
                self._row.removeWidget(self._viewport)
            self._viewport, self._views = viewport, manager.layout
            self._row.addWidget(viewport, 1)
        for _ in range(3):
            slicer.app.processEvents()
        for view in self.window.findChildren(View):
            view.adopt_size()
            view.picture()
        slicer.app.processEvents()

    def wait(self, holds: Callable[[], bool]) -> None:
        import slicer

        while not holds():
            slicer.app.processEvents()
            time.sleep(0.01)

    def save(self, path: Path, look_at: str = "inputsCollapsibleButton") -> None:
        """A picture of the window with a part of the panel in sight."""
        import slicer
        from PIL import Image
        from PySide6 import QtCore

        self.show_views()
        self.scroll.verticalScrollBar().setValue(0)
        self.scroll.ensureWidgetVisible(getattr(self.widget.ui, look_at), 0, 40)
        slicer.app.processEvents()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.window.grab().scaledToWidth(PICTURE_WIDTH, QtCore.Qt.TransformationMode.SmoothTransformation).save(str(path))
        with Image.open(path) as picture:  # a third of the size, and nobody sees it
            small = picture.convert("RGB").quantize(COLOURS, kmeans=1)
        small.save(path, optimize=True)
        print(path)


def screenshots(folder: Path) -> None:
    """Click through the sample case and save a picture of each state."""
    import slicer
    from SphericalRegModule import choices, layout
    from SphericalRegModule.sample_data import load_sample_case

    layout.show_layout()
    demo = Demo()
    ui = demo.widget.ui
    demo.save(folder / "empty.png")
    case_folder = Path(slicer.app.temporaryPath) / "SphericalRegSample"
    ct, xray = load_sample_case(case_folder)
    ui.ctSelector.setCurrentNode(ct)
    ui.xraySelector.setCurrentNode(xray)
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    ui.placeButton.click()
    demo.save(folder / "inputs.png")
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    began = time.perf_counter()
    ui.registerButton.click()
    demo.wait(lambda: "refine" in demo.widget.panel.stage or not demo.widget.panel.runner.busy)
    demo.save(folder / "running.png", "statusFrame")
    demo.wait(lambda: not demo.widget.panel.runner.busy)
    print(f"registered in {time.perf_counter() - began:.1f} s: {ui.verdictLabel.text}{ui.errorLabel.text}")
    demo.save(folder / "result.png", "resultCollapsibleButton")
    for picture, name in ((choices.RED_BLUE, "difference"), (choices.SIGNED, "signed"), (choices.CHECKERBOARD, "checkerboard")):
        ui.pictureComboBox.setCurrentIndex(ui.pictureComboBox.findText(picture))
        demo.save(folder / f"{name}.png", "resultCollapsibleButton")
    ui.pictureComboBox.setCurrentIndex(0)
    batch(demo, ct, xray)
    demo.save(folder / "batch.png", "batchTable")
    ui.batchCollapsibleButton.collapsed, ui.geometryCollapsibleButton.collapsed = True, False
    ui.xraySelector.setCurrentNode(xray)
    ui.sddSpinBox.value = 300  # the CT does not fit between source and detector
    ui.principalColumnSpinBox.value = 9000
    ui.registerButton.click()
    demo.wait(lambda: not demo.widget.panel.runner.busy)
    demo.save(folder / "error.png", "statusFrame")
    ui.geometryPathLineEdit.currentPath = str(case_folder / "case_000" / "geometry.json")
    ui.loadGeometryButton.click()
    ui.geometryPathLineEdit.currentPath = ""
    with tempfile.TemporaryDirectory() as models:
        model(demo, Path(models), lambda: demo.save(folder / "model.png", "modelCollapsibleButton"))
    demo.widget.cleanup()


def model(demo: Demo, folder: Path, save: Callable[[], None]) -> None:
    """A training of a minute, pictured on its way when there is a curve, and cancelled."""
    import slicer
    from SphericalRegModule.choices import NO_MODEL, OWN_MODEL

    ui, section = demo.widget.ui, demo.widget.panel.model
    ui.modelComboBox.setCurrentIndex(ui.modelComboBox.findText(OWN_MODEL))
    ui.anatomyLineEdit.setText("pelvis")
    ui.trainPathLineEdit.currentPath = str(folder / "patient.safetensors")
    ui.trainMinutesSpinBox.value = MINUTES
    ui.trainButton.click()
    demo.wait(lambda: len(section._curve) >= CURVE_POINTS or not section.trainer.busy)
    ui.trainPathLineEdit.comboBox().blockSignals(True)
    ui.trainPathLineEdit.currentPath = "patient.safetensors"  # the folder is of no interest
    save()
    ui.trainPathLineEdit.currentPath = str(folder / "patient.safetensors")
    ui.trainPathLineEdit.comboBox().blockSignals(False)
    ui.trainButton.click()
    demo.wait(lambda: not section.trainer.busy)
    ui.modelComboBox.setCurrentIndex(ui.modelComboBox.findText(NO_MODEL))
    slicer.app.processEvents()


def batch(demo: Demo, ct: Any, xray: Any) -> None:
    """Three X-rays of the sample's CT as pairs: the sample's own, one shifted on the detector, and one whose geometry nobody entered."""
    import numpy as np
    import slicer

    from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    ui = demo.widget.ui
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    for name, shift in (("pelvis X-ray", 0), ("shifted X-ray", 12), ("X-ray of unknown geometry", 0)):
        node = xray
        if name != xray.GetName():
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
            set_voxels(node, np.roll(voxels(xray), shift, axis=2), node_from_voxel(xray))
        if shift:
            keep_geometry(node, kept_geometry(xray))
        ui.xraySelector.setCurrentNode(node)
        ui.addPairButton.click()
    ui.inputsCollapsibleButton.collapsed = ui.geometryCollapsibleButton.collapsed = True
    ui.batchCollapsibleButton.collapsed = False
    ui.pairsButton.click()
    demo.wait(lambda: not demo.widget.panel.runner.busy)


def interactive() -> int:
    """A window to play with; the views are redrawn several times a second."""
    from PySide6 import QtCore, QtWidgets
    from SphericalRegModule import layout
    from SphericalRegModule.sample_data import choose_in_panel, load_sample_case

    layout.show_layout()
    choose_in_panel(*load_sample_case())
    demo = Demo()
    demo.widget.enter()
    timer = QtCore.QTimer()
    timer.timeout.connect(demo.show_views)
    timer.start(200)
    code = QtWidgets.QApplication.exec()
    demo.widget.cleanup()
    return int(code)


def picture_of_result(path: Path) -> None:
    """Register the sample case by clicks and save a picture of the window."""
    import measure
    from SphericalRegModule import layout

    layout.show_layout()
    demo = Demo()
    measure.choose_sample(demo.widget)
    measure.register(demo.widget)
    demo.save(path, "resultCollapsibleButton")
    demo.widget.cleanup()


def measured(cancels: int, rounds: int, seed: int) -> int:
    import measure
    import slicer
    from slicer_harness.modules import open_module
    from SphericalRegModule import layout

    layout.show_layout()
    _widget, panel = open_module(MODULE)
    panel.show()
    return measure.measure(lambda: slicer.modules.SphericalRegWidget, cancels, rounds, seed)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="slicer-demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshot", metavar="FILE", type=Path, help="register the sample case, save a picture, and end")
    parser.add_argument("--screenshots", metavar="FOLDER", type=Path, help="save pictures of all states into this folder, and end")
    parser.add_argument("--measure", action="store_true", help="print rates, latencies and leaks, and end; 1 if a target is missed")
    parser.add_argument("--cancels", type=int, default=100, help="with --measure: registrations to cancel (default 100)")
    parser.add_argument("--rounds", type=int, default=50, help="with --measure: scenes to close and modules to reload (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="with --measure: of the moments at which it is cancelled")
    chosen = parser.parse_args(arguments)
    executable = os.environ.get("SLICER")
    if executable and chosen.screenshots is None:
        return in_slicer(executable, chosen.screenshot, (chosen.cancels, chosen.rounds, chosen.seed) if chosen.measure else None)
    window = chosen.screenshot is None and chosen.screenshots is None and not chosen.measure
    if window and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("QT_QPA_PLATFORM", "")  # the platform's own windows
    sys.path[:0] = [str(HERE), str(MODULE.parent)]
    from slicer_harness import boot

    boot()
    if chosen.measure:
        return measured(chosen.cancels, chosen.rounds, chosen.seed)
    if window:
        return interactive()
    if chosen.screenshot is not None:
        picture_of_result(chosen.screenshot)
    if chosen.screenshots is not None:
        screenshots(chosen.screenshots)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The panel's model: none, the one that comes along, a file, or one that is trained here for this patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.shipped import SHIPPED
from SphericalRegLib.mrml.parts import state_of
from SphericalRegLib.progress import clock
from SphericalRegLib.training.files import Trained, how_far, state_path

from . import dependencies, layout
from .choices import ALL_VIEWS, ASK_MODEL, MODEL_FILE, NO_MODEL, OWN_MODEL, SHIPPED_MODEL
from .job import Done, Failed, Message
from .models import loaded, model_file
from .prepared import keep, key
from .runner import Runner
from .training import STARTING, VALIDATION, TrainingProgress, train

if TYPE_CHECKING:
    from .panel import Panel


class ModelSection:
    """Says what a chosen model is and whether it fits the CT, and trains one beside whatever else the panel does."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.options: dict[str, Any] = {}  # of trainings, over those of the panel; as of `SphericalRegLogic.trainModel`
        self.trainer = Runner(self._on_training, self._on_trained)
        self.looker = Runner(lambda _report: None, self._on_looked)
        self._known: tuple[Any, Any] | None = None
        self._looked_at: Any = None
        self._last_choice = NO_MODEL
        self._curve: Any = ()
        # currentPathChanged tells neither of a path without the suffix nor of one that was cleared
        self.ui.modelPathLineEdit.comboBox().connect("editTextChanged(QString)", self.on_model_path)
        self.ui.trainPathLineEdit.comboBox().connect("editTextChanged(QString)", self.on_train_path)
        self.ui.trainButton.connect("clicked(bool)", self.on_train)
        self.ui.trainAnewButton.connect("clicked(bool)", self.on_train_anew)
        self.ui.trainProgressBar.visible = False
        self.ui.trainLabel.text = ""

    def forget(self) -> None:
        """The scene goes away; a training goes on."""
        self.looker.abandon()
        self._looked_at, self._last_choice, self._curve = None, NO_MODEL, ()
        self.ui.modelLabel.text = ""

    def close(self) -> None:
        """The panel goes away: a training is cancelled, and can be resumed."""
        self.trainer.abandon()

    def show_state(self, busy: bool) -> None:
        p = self.panel.parameters
        choice, training = NO_MODEL if p is None else p.model, self.trainer.busy
        for widget in (self.ui.modelPathRowLabel, self.ui.modelPathLineEdit):
            widget.visible = choice == MODEL_FILE
        self.ui.trainFrame.visible = choice == OWN_MODEL or training
        self.ui.modelLabel.visible = bool(self.ui.modelLabel.text)
        self.ui.trainProgressBar.visible = training
        for widget in (
            self.ui.anatomyLineEdit,
            self.ui.trainViewComboBox,
            self.ui.trainPrimarySpinBox,
            self.ui.trainSecondarySpinBox,
            self.ui.trainMinutesSpinBox,
            self.ui.trainPathLineEdit,
        ):
            widget.enabled = not training
        unfinished = self._unfinished()
        missing = self._missing_for_training()
        self.ui.trainButton.text = (
            _("Cancel")
            if training
            else _("Train")
            if unfinished is None
            else _("Resume ({share:.0f} % done)").format(share=100 * unfinished.share)
        )
        self.ui.trainButton.enabled = training or not missing
        self.ui.trainButton.toolTip = (
            _("End the training; it can be resumed.")
            if training
            else missing or _("Train a model for the chosen CT in the background. Registrations can be run meanwhile.")
        )
        self.ui.trainAnewButton.enabled = not training and unfinished is not None

    def update(self) -> None:
        """Another model, path or CT."""
        p = self.panel.parameters
        for edit, text in ((self.ui.modelPathLineEdit, p.modelPath), (self.ui.trainPathLineEdit, p.trainPath)):
            if edit.currentPath != text:
                edit.currentPath = text
        if p.model != NO_MODEL and p.initial == ALL_VIEWS:  # with a model no view has to be guessed
            p.initial = ASK_MODEL
        elif p.model == NO_MODEL != self._last_choice and p.initial == ASK_MODEL:
            p.initial = ALL_VIEWS
        self._last_choice = p.model
        self._look()
        self._show_past()

    # -- the chosen model

    def file(self) -> Path | None:
        """The chosen model's file; None where none is chosen.

        Raises:
            InputError: no model comes along with this installation.
        """
        p = self.panel.parameters
        if p.model == SHIPPED_MODEL:
            return model_file(SHIPPED)
        text = {MODEL_FILE: p.modelPath, OWN_MODEL: p.trainPath}.get(p.model, "")
        return _with_suffix(text) if text else None

    def missing(self) -> str:
        """What is still to be chosen before a registration, or an empty text."""
        p = self.panel.parameters
        if p.model == NO_MODEL:
            return _("Choose a model, or another start") if p.initial == ASK_MODEL else ""
        if p.model == MODEL_FILE and not p.modelPath:
            return _("Choose the model's file")
        if p.model == OWN_MODEL and (not p.trainPath or not _with_suffix(p.trainPath).is_file()):
            return _("Train the model first, or choose another")
        return ""

    def chosen(self) -> Any:
        """The chosen model, loaded; None for none.

        Raises:
            InputError: its file is not there, or is no model.
        """
        path = self.file()
        if path is None:
            return None
        if self._known is None or self._known[0] != _stamp(path):
            self._known = (_stamp(path), loaded(path))
        return self._known[1]

    def _look(self) -> None:
        """Read the model beside the panel, and compare its CT with the chosen one."""
        p = self.panel.parameters
        try:
            path = self.file()
        except InputError as error:
            self._looked_at, self.ui.modelLabel.text = None, str(error)
            return
        ct = p.ctVolume if p.ctVolume is not None and p.ctVolume.GetImageData() is not None else None
        state = None if ct is None else state_of(ct)
        if (path, None if path is None else _stamp(path), state) == self._looked_at:
            return
        self._looked_at = (path, None if path is None else _stamp(path), state)
        self.looker.abandon()
        self.ui.modelLabel.text = ""
        if path is None or (p.model == OWN_MODEL and not path.is_file()):
            return
        if dependencies.missing():
            self.ui.modelLabel.text = _("The first registration or training brings the packages that are needed to look at it.")
            return
        self.ui.modelLabel.text = _("Looking at the model...")
        known = self.panel.logic.prepared
        here = known is not None and known.key.ct == state
        from SphericalRegLib.mrml.volumes import volume_from_node

        try:
            # a path that is still being typed names no file: then the CT is not copied
            volume = None if ct is None or not path.is_file() else known.pyramid if here else volume_from_node(ct)
        except InputError as error:
            self.ui.modelLabel.text = str(error)
            return
        options, device, asked = self.panel.logic.options, p.device, self._looked_at
        made_from = None if volume is None else key(ct, None, None, device, options)
        self.looker.start(lambda report: (asked, made_from, *look(path, volume, options, device)))

    def _on_looked(self, message: Message) -> None:
        p = self.panel.parameters
        if isinstance(message, Failed):
            self.ui.modelLabel.text = message.sentence
        elif isinstance(message, Done) and p is not None:
            asked, made_from, model, pyramid, notes = message.value
            self._known = (asked[1], model)
            self.ui.modelLabel.text = in_words(model.card, notes)
            if pyramid is not None and self.panel.logic.prepared is None and p.partsNode is None:
                self.panel.logic.prepared = keep(pyramid, made_from)
        self.ui.modelLabel.visible = bool(self.ui.modelLabel.text)

    def on_model_path(self, path: str) -> None:
        """Another file was entered."""
        if self.panel.parameters is not None and self.panel.parameters.modelPath != path:
            self.panel.parameters.modelPath = path

    # -- training

    def on_train_path(self, path: str) -> None:
        """Another place for the model was entered."""
        if self.panel.parameters is not None and self.panel.parameters.trainPath != path:
            self.panel.parameters.trainPath = path

    def on_train(self, checked: bool = False) -> None:
        """Start or resume a training, or cancel it."""
        if self.trainer.busy:
            self.trainer.cancel()
            self.ui.trainButton.text = _("Cancelling...")
            self.ui.trainButton.enabled = False
            return
        p = self.panel.parameters
        out = _with_suffix(p.trainPath)
        resume = state_path(out).is_file()
        question = _("There is a model at {path} already. Train anew, and replace it in the end?").format(path=out)
        if not resume and out.is_file() and not slicer.util.confirmOkCancelDisplay(question, windowTitle="SphericalReg"):
            return
        with self.panel.reporting(self.ui.modelCollapsibleButton):
            dependencies.ensure()
            request = self._request(out, resume)
            self._curve = ()
            self.ui.trainProgressBar.value = 0
            self.ui.trainLabel.text = (
                _("Starting, for an X-ray of no known geometry: a flat panel of 400 mm at 1020 mm...")
                if request.radiograph is None
                else _("Starting, with the geometry of {xray}...").format(xray=p.xrayVolume.GetName())
            )
            layout.show_layout()
            self.trainer.start(lambda report: train(request, report))
        self.panel.update()

    def _request(self, out: Path, resume: bool) -> Any:
        from .reading import training_request

        p, known = self.panel.parameters, self.panel.geometry.known
        options = {
            "minutes": p.trainMinutes,
            "views": [p.trainView],
            "primaryDeg": p.trainPrimaryDeg,
            "secondaryDeg": p.trainSecondaryDeg,
            "anatomy": p.anatomy or None,
            **self.options,
        }
        xray = None if self.panel.missing_geometry() else p.xrayVolume  # without an X-ray: the camera of the simulator
        return training_request(
            p.ctVolume,
            out,
            xray,
            known,
            labelsNode=p.partsNode,
            labels=self.panel.inputs.chosen_parts,
            frame=self.panel.inputs.frame,
            resume=resume,
            device=p.device,
            seed=p.seed,
            options=options,
        )

    def on_train_anew(self, checked: bool = False) -> None:
        """Throw an unfinished training away, after asking."""
        state = state_path(_with_suffix(self.panel.parameters.trainPath))
        question = _("Throw the unfinished training away?\n\n{path}").format(path=state)
        if slicer.util.confirmOkCancelDisplay(question, windowTitle="SphericalReg"):
            with self.panel.reporting(self.ui.modelCollapsibleButton):
                try:
                    state.unlink(missing_ok=True)
                except OSError as error:
                    raise InputError(_("{state} cannot be removed: {error}").format(state=state, error=error)) from None
                self.ui.trainLabel.text = ""
        self.panel.update()

    def _on_training(self, progress: Any) -> None:
        assert isinstance(progress, TrainingProgress)
        if progress.stage == STARTING:  # what is said stays
            return
        if progress.stage != VALIDATION:
            self.ui.trainProgressBar.value = round(100 * progress.done / max(progress.total, 1))
        words = [progress.stage.partition(",")[0], *([progress.message] if progress.message else [])]
        if progress.left_s is not None:
            words.append(_("{time} left").format(time=clock(progress.left_s)))
        self.ui.trainLabel.text = ", ".join(words)
        self._show_curve(progress.curve)

    def _on_trained(self, message: Message) -> None:
        if isinstance(message, Done):
            self.ui.trainLabel.text = _("Trained: {path}").format(path=message.value)
            told = how_far(Path(message.value))
            self._show_curve(() if told is None else told.curve)
        elif isinstance(message, Failed):
            self.ui.trainLabel.text = ""
            self.panel.show_error(message)
        else:
            self.ui.trainLabel.text = _("Cancelled. Resume goes on where it was.") if self._unfinished() else _("Cancelled before its first step.")
        self.panel.update()
        self.panel.show_state()

    def _missing_for_training(self) -> str:
        p = self.panel.parameters
        if p is None or p.ctVolume is None:
            return _("Choose a CT")
        return "" if p.trainPath else _("Choose where the model is written to")

    def _unfinished(self) -> Trained | None:
        """The unfinished training of the chosen path, if there is one."""
        p = self.panel.parameters
        if p is None or not p.trainPath or not state_path(_with_suffix(p.trainPath)).is_file():
            return None
        return how_far(_with_suffix(p.trainPath)) or Trained((), 0.0, False)

    # -- the validation curve

    def _show_past(self) -> None:
        """The curve of a training that was chosen again: once, and not while another one runs."""
        p = self.panel.parameters
        if p.model != OWN_MODEL or self.trainer.busy or not p.trainPath or self._curve:
            return
        told = how_far(_with_suffix(p.trainPath))
        if told is not None:
            self._show_curve(told.curve)

    def _show_curve(self, curve: Any) -> None:
        """Median errors over the minutes of the training, once there are two validations to draw a line between."""
        if len(curve) < 2 or curve == self._curve:
            return
        self._curve = curve
        lines = {"mtre_mm": _("after spherical LM, mm"), "regressor_mtre_mm": _("regressor, mm")}
        shown = {key: name for key, name in lines.items() if all(key in point for point in curve)}
        table = np.array([[point["seconds"] / 60, *(point[key] for key in shown)] for point in curve])
        self.panel.charts.show("training", table, [_("minutes of training"), *shown.values()], _("Validation: median error"))


def look(path: Path, ct: Any, options: Any, device: str) -> tuple[Any, Any, tuple[str, ...]]:
    """(the model, the prepared CT, what does not fit between them); `ct` is a Volume, a prepared CT, or None. For a worker thread.

    Raises:
        InputError: the file is no model, or the CT cannot be used.
    """
    model = loaded(path)
    if ct is None:
        return model, None, ()
    from SphericalRegLib.devices import resolve_device
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.registration.pipeline import prepare
    from SphericalRegLib.registration.proposals import model_notes

    pyramid = prepare(ct, options, resolve_device(device)) if isinstance(ct, Volume) else ct
    notes = model_notes(model, pyramid)
    return model, pyramid, notes or (_("It is a model of this CT."),)


def in_words(card: dict[str, Any], notes: tuple[str, ...]) -> str:
    """What a model is for and how good it was, and what is to be said about it here."""
    poses = card.get("training", {}).get("poses")
    words = [_("A model of: {anatomy}.").format(anatomy=card.get("anatomy") or _("what its card does not say"))]
    if poses:
        words.append(
            _("For {views}, C-arm angles up to {primary:g} and {secondary:g} degrees.").format(
                views=", ".join(poses["views"]), primary=poses["primary_deg"], secondary=poses["secondary_deg"]
            )
        )
    figures = card.get("validation") or {}
    if "regressor_deg" in figures:
        words.append(
            _("On simulated X-rays its regressor was off by {deg:.1f} degrees and {mm:.1f} mm (medians).").format(
                deg=figures["regressor_deg"], mm=figures["regressor_mm"]
            )
        )
    return " ".join([*words, *notes])


def _with_suffix(text: str) -> Path:
    path = Path(text).absolute()
    return path if path.suffix else Path(f"{path}.safetensors")  # a path that is being typed may be "/", which `with_suffix` refuses


def _stamp(path: Path) -> tuple[Path, int | None]:
    """Changes when a file does."""
    try:
        return path, path.stat().st_mtime_ns
    except OSError:
        return path, None

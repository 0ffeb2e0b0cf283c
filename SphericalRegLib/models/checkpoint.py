"""Models on disk: weights in safetensors, everything else in a JSON model card beside them. Nothing is ever unpickled."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from SphericalRegLib.devices import numbered
from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.metric import Places, PoseMetric
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.se3 import recentred
from SphericalRegLib.imaging.files import write_atomically
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor, RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig

FORMAT = "sphericalreg-model/1"

CARD_DIGEST = "card_sha256"
"""Key of what a card says of all its other keys (`_digest`)."""


@dataclass(frozen=True)
class Model:
    """What registration needs of a training.

    Attributes:
        encoder: the spherical encoder.
        regressor: the pose regressor, or None.
        camera: the camera both were trained with; X-rays are brought to it first.
        card: anatomy, pose range, training set, seed, versions, figures: whatever describes where the model comes from and what it is good for.
        identity: which model this is, for records: its "file"'s name and its weights' "sha256"; empty for one that never was on disk.
    """

    encoder: SphericalEncoder
    regressor: PoseRegressor | None
    camera: Camera
    card: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[int, ...] | None:
        """Labels of the CT that its DRRs showed (one bone of several), as its card has them; None: all of it."""
        labels = self.card.get("training", {}).get("labels")
        return None if labels is None else tuple(labels)

    def places(self, centre: Tensor) -> Places | None:
        """What its embeddings of a CT with that centre (3,) are anchored to; None where they were not, or the card does not say."""
        training: dict[str, Any] = self.card.get("training", {})
        here = centre.detach().cpu().double()
        try:
            loss = training["loss"]
            if self.encoder.config.embedding != "so4" or not loss["anchor"] > 0:
                return None
            range_: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in training["poses"].items()}
            places = Places.around(PoseRange(**range_), PoseMetric(**loss["metric"]), self.camera, here)
            if range_.get("about") is not None and len(self.card.get("cts", ())) == 1:  # the CT may lie elsewhere in the world by now
                there = here.new_tensor(self.card["cts"][0]["centre_ras_mm"])
                places = replace(places, reference=recentred(places.reference, there, here))
            return places.to(centre.device)
        except (AttributeError, InputError, KeyError, TypeError, ValueError):
            return None

    def to(self, device: torch.device | str) -> Model:
        """The model on a device. Networks that lie elsewhere are copied: whoever works with this model is not disturbed."""
        regressor = None if self.regressor is None else _on(self.regressor, device)
        return replace(self, encoder=_on(self.encoder, device), regressor=regressor)


def model_files(path: str | Path) -> tuple[Path, Path]:
    """Weights (.safetensors) and card (.json) of a model that is named by one of them, or by what both have before their suffix."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path  # what follows the dot of "run_0.5" is none
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def save_model(model: Model, path: str | Path) -> None:
    """Write `path` (.safetensors) and the card beside it (.json); where either cannot be written, the model that was there stays.

    Weights are stored in 16 bits: what rounding changes is far below what a training leaves open, and the file is half as large.
    """
    weights_path, card_path = model_files(path)
    tensors = {f"encoder.{name}": value for name, value in _stored(model.encoder).items()}
    if model.regressor is not None:
        tensors |= {f"regressor.{name}": value for name, value in _stored(model.regressor).items()}
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    card = {
        "format": FORMAT,
        "encoder": asdict(model.encoder.config),
        "regressor": None if model.regressor is None else asdict(model.regressor.config),
        "camera": model.camera.to_dict(),
        "card": model.card,
    }

    before = card_path.read_bytes() if card_path.is_file() else None

    def write_weights(temporary: Path) -> None:
        save_file(stored, temporary)
        described = {**card, "weights_sha256": _sha256(temporary)}
        text = json.dumps({**described, CARD_DIGEST: _digest(described)}, indent=1) + "\n"
        # The card is whole before either takes the place of what was there.
        write_atomically(card_path, lambda beside: beside.write_text(text, encoding="utf-8"))

    try:
        write_atomically(weights_path, write_weights)
    except BaseException:
        _put_back(card_path, before)  # weights that somebody has open cannot be replaced on every system, and they are not those of the new card
        raise


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Read a model, in evaluation mode.

    Raises:
        InputError: a file is missing, is not a model of this format, the weights are not those that the card describes, or the card is not as it was
            written (where it says so: those of before carry no digest of themselves).
    """
    weights_path, card_path = model_files(path)
    for needed in (weights_path, card_path):
        if not needed.is_file():
            raise InputError(f"The model file {needed} does not exist; a model is a .safetensors file with its .json card beside it.")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The model card {card_path} is not JSON: {error}.") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise InputError(f"The model card {card_path} has the format {found!r}; this version reads {FORMAT!r}.")
    if _sha256(weights_path) != card.get("weights_sha256"):
        raise InputError(f"The weights {weights_path} are not those that {card_path.name} describes (SHA-256 differs); copy both files again.")
    if CARD_DIGEST in card and card[CARD_DIGEST] != _digest({key: value for key, value in card.items() if key != CARD_DIGEST}):
        raise InputError(f"The model card {card_path} has been changed since it was written (its SHA-256 differs); copy both files again.")
    try:
        tensors = load_file(weights_path)
        encoder = SphericalEncoder(_config(EncoderConfig, card["encoder"]))
        encoder.load_state_dict(_part(tensors, "encoder."))
        regressor = None
        if card["regressor"] is not None:
            regressor = PoseRegressor(_config(RegressorConfig, card["regressor"]), torch.eye(4), torch.zeros(3))
            regressor.load_state_dict(_part(tensors, "regressor."))
        camera, about = Camera.from_dict(card["camera"]), dict(card["card"])
    except (InputError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"The model {weights_path} does not fit its card {card_path.name}: {str(error).rstrip('.')}.") from error
    identity = {"file": weights_path.name, "sha256": str(card["weights_sha256"])}
    model = Model(encoder.eval().requires_grad_(False), regressor and regressor.eval().requires_grad_(False), camera, about, identity)
    return model.to(device)


def _on(network: Any, device: torch.device | str) -> Any:
    if all(tensor.device == numbered(device) for tensor in network.state_dict().values()):
        return network
    return copy.deepcopy(network).to(device)


def _config(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**{**values, "trunk": TrunkConfig(**values["trunk"])})


def _stored(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights in 16 bits; buffers, which hold millimetres, as they are."""
    weights = dict(network.named_parameters())
    return {name: value.to(torch.float16) if name in weights else value for name, value in network.state_dict().items()}


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _put_back(path: Path, content: bytes | None) -> None:
    """Leave a file as it was before; None: there was none."""
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != content:
        write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _digest(card: dict[str, Any]) -> str:
    """SHA-256 of a card's values, however the file is laid out."""
    plain = json.loads(json.dumps(card))  # as it is read back: keys are texts, lists are lists
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.se3 import make_transform
from SphericalRegLib.models import checkpoint
from SphericalRegLib.models.checkpoint import Model, load_model, save_model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor, RegressorConfig
from SphericalRegLib.models.shipped import shipped_model
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.training.losses import GRADIENT_MATCHING, LossWeights

TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
CAMERA = Camera(1000.0, (8.0, 8.0), (32, 32), (15.5, 15.5))


@pytest.fixture
def model():
    torch.manual_seed(0)
    reference = torch.eye(4)
    reference[2, 3] = 700.0
    regressor = PoseRegressor(RegressorConfig(TRUNK, components=2), reference, torch.tensor([1.0, 2.0, 3.0]))
    return Model(SphericalEncoder(EncoderConfig(TRUNK, elements=3)), regressor, CAMERA, {"anatomy": "phantom"})


def test_round_trip(model, tmp_path):
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m")
    image = torch.rand(2, 1, 32, 32)
    # weights are stored in 16 bits, places in 32
    torch.testing.assert_close(loaded.encoder(image), model.encoder(image), rtol=0, atol=5e-3)
    torch.testing.assert_close(loaded.regressor(image).pose, model.regressor(image).pose, rtol=0, atol=0.5)
    assert torch.equal(loaded.regressor.reference, model.regressor.reference)
    assert loaded.camera == CAMERA and loaded.card == {"anatomy": "phantom"}
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.safetensors"]


def test_a_dot_in_a_models_name_is_no_suffix(model, tmp_path):
    for share in ("0.5", "0.25"):
        save_model(Model(model.encoder, None, CAMERA, {"share": share}), tmp_path / f"m_{share}")
    for share in ("0.5", "0.25"):
        for suffix in ("", ".safetensors", ".json"):
            assert load_model(tmp_path / f"m_{share}{suffix}").card == {"share": share}
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(InputError, match=r"m_0\.safetensors does not exist"):
        load_model(tmp_path / "m_0")


def test_what_cannot_be_written_leaves_what_was_there(model, tmp_path, monkeypatch):
    save_model(model, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(stored, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    for broken, instead in ((checkpoint, "save_file"), (Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(broken, instead, full if broken is checkpoint else lambda *_, **__: full(None, tmp_path / "m.half"))
            with pytest.raises(OSError, match="no space"):
                save_model(model, tmp_path / "m")
        (tmp_path / "m.half").unlink(missing_ok=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_networks_that_lie_elsewhere_are_copied(model):
    assert model.to("cpu").encoder is model.encoder
    there = model.to("meta")
    assert next(there.encoder.parameters()).device.type == "meta"
    assert next(model.encoder.parameters()).device.type == next(model.regressor.parameters()).device.type == "cpu"


def test_without_regressor(model, tmp_path):
    save_model(Model(model.encoder, None, CAMERA), tmp_path / "m")
    assert load_model(tmp_path / "m").regressor is None


def edit_card(folder, **changes):
    card = json.loads((folder / "m.json").read_text())
    del card["card_sha256"]  # which would say that it was changed, and no more
    (folder / "m.json").write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: (d / "m.json").unlink(), "does not exist"),
        (lambda d: (d / "m.json").write_text("{"), "not JSON"),
        (lambda d: edit_card(d, format="other/9"), "has the format 'other/9'"),
        (lambda d: (d / "m.safetensors").write_bytes(b"x" * 100), "SHA-256 differs"),
        (lambda d: edit_card(d, encoder={"trunk": {"image_size": 32}}), "does not fit its card"),
        (lambda d: edit_card(d, encoder={"nonsense": 1, "trunk": {}}), "does not fit its card"),
        (lambda d: edit_card(d, card=None), "does not fit its card"),
    ],
)
def test_damaged_models_are_refused_in_words(model, tmp_path, damage, sentence):
    save_model(model, tmp_path / "m")
    damage(tmp_path)
    with pytest.raises(InputError, match=sentence):
        load_model(tmp_path / "m")


def test_weights_that_cannot_be_replaced_leave_the_model_that_was_there(model, tmp_path, monkeypatch):
    """A program that has them open holds them fast on some systems; by then the new card has taken the old one's place."""
    replace = Path.replace

    def held(self, target):
        if Path(target).suffix == ".safetensors":
            raise PermissionError("in use")
        return replace(self, target)

    for path in (tmp_path / "new", tmp_path / "m"):
        if path.name == "m":
            save_model(model, path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", held)
            with pytest.raises(PermissionError, match="in use"):
                save_model(Model(model.encoder, None, CAMERA, {"anatomy": "another"}), path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load_model(tmp_path / "m").card == {"anatomy": "phantom"}


def test_a_card_that_was_changed_is_refused_and_one_of_before_is_read(model, tmp_path):
    save_model(Model(model.encoder, None, CAMERA, {"figures": {"mtre_mm": float("nan")}, "labels": (1, 2), 3: 0.1}), tmp_path / "m")
    written = json.loads((tmp_path / "m.json").read_text())
    assert load_model(tmp_path / "m").card["labels"] == [1, 2]
    (tmp_path / "m.json").write_text(json.dumps(dict(reversed(written.items()))))
    load_model(tmp_path / "m")  # laid out otherwise, it says the same
    for changes in ({"camera": {**written["camera"], "sdd_mm": 900.0}}, {"card": {"figures": {}}}):
        (tmp_path / "m.json").write_text(json.dumps({**written, **changes}))
        with pytest.raises(InputError, match=r"m\.json has been changed since it was written"):
            load_model(tmp_path / "m")
    del written["card_sha256"]
    (tmp_path / "m.json").write_text(json.dumps({**written, "card": {"anatomy": "old"}}))
    assert load_model(tmp_path / "m").card == {"anatomy": "old"}


def test_the_shipped_model_is_read():
    path = shipped_model("pelvis")
    assert path is not None and load_model(path).regressor is not None


def test_two_names_of_one_gpu_copy_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    there = SimpleNamespace(state_dict=lambda: {"weight": SimpleNamespace(device=torch.device("cuda:2"))})
    assert checkpoint._on(there, "cuda") is there and checkpoint._on(there, "cuda:2") is there


def test_what_embeddings_are_anchored_to_is_read_off_the_card():
    """As a training has it (`Batch.reference`): the middle of its pose range, about the CT's centre."""
    shipped, centre = load_model(shipped_model("pelvis")), torch.tensor([5.0, -6.0, 7.0], dtype=torch.float64)
    places = shipped.places(centre)
    assert places.metric == LossWeights().metric
    torch.testing.assert_close(places.reference, PoseRange().middle(shipped.camera, centre))
    still = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(places.of(places.reference), still)

    def changed(**training):
        return replace(shipped, card={**shipped.card, "training": {**shipped.card["training"], **training}})

    assert changed(loss=asdict(GRADIENT_MATCHING)).places(centre) is None
    for odd in ({"of another time": 1}, {"views": ["from above"]}, {"sod_fraction": 1.2}, None):
        assert changed(poses=odd).places(centre) is None
    assert replace(shipped, card={}).places(centre) is None
    torch.manual_seed(0)
    euclidean = SphericalEncoder(EncoderConfig(TRUNK, elements=3, embedding="euclidean"))
    assert replace(shipped, encoder=euclidean).places(centre) is None
    about = PoseRange(about=tuple(tuple(row) for row in places.reference.tolist()))
    by_50 = torch.full((3,), 50.0, dtype=torch.float64)
    moved = changed(poses=asdict(about)).places(torch.tensor(shipped.card["cts"][0]["centre_ras_mm"]).double() + by_50)
    # the same CT in a world that has moved
    torch.testing.assert_close(moved.reference @ make_transform(torch.eye(3).double(), by_50), places.reference)

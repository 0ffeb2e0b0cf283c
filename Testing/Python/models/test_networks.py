import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import local, retract, so3_exp
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.local_contrast import normalize_local_contrast
from SphericalRegLib.models.regressor import PoseMixture, PoseRegressor, RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.similarity.spherical import SphericalSimilarity, embedding_residual

SMALL = TrunkConfig(image_size=32, width=32, blocks=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_local_contrast_forgets_scale_and_offset():
    image, mask = torch.rand(2, 1, 40, 40, dtype=torch.float64), torch.ones(2, 1, 40, 40, dtype=torch.float64)
    reference = normalize_local_contrast(image, mask, 4.0)
    assert torch.allclose(normalize_local_contrast(7 * image + 3, mask, 4.0), reference, atol=1e-9)


def test_what_the_mask_hides_changes_nothing():
    image, mask = torch.rand(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    mask[..., :10] = 0
    changed = image.clone()
    changed[..., :10] = 1e3
    reference = normalize_local_contrast(image, mask, 4.0)
    assert torch.equal(normalize_local_contrast(changed, mask, 4.0), reference)
    assert (reference[..., :10] == 0).all()


@pytest.mark.parametrize("backbone", ["tiny", "resnet10t", "mobilenetv3_small_050", "regnetx_002", "convnext_atto"])
def test_backbones_carry_second_derivatives_and_forward_mode(backbone):
    encoder = SphericalEncoder(EncoderConfig(TrunkConfig(image_size=32, backbone=backbone, width=32, blocks=1), elements=2))
    image = torch.rand(2, 1, 32, 32, requires_grad=True)
    embedding = encoder(image)
    assert torch.allclose(embedding.norm(dim=-1), torch.ones(2, 2, 2), atol=1e-5)
    (gradient,) = torch.autograd.grad(embedding[..., 0].sum(), image, create_graph=True)
    gradient.square().sum().backward()
    reached = [p for p in encoder.trunk.parameters() if p.grad is not None and bool((p.grad != 0).any())]
    assert len(reached) > 0.2 * len(list(encoder.trunk.parameters())) and all(torch.isfinite(p.grad).all() for p in reached)
    tangent = torch.rand_like(image)
    _, column = torch.func.jvp(encoder, (image.detach(),), (tangent,))
    step = 1e-3
    numeric = (encoder(image + step * tangent) - encoder(image - step * tangent)) / (2 * step)
    assert (column - numeric).norm() < 0.05 * numeric.norm()


def test_unknown_backbone_is_named():
    with pytest.raises(InputError, match="no_such_net"):
        SphericalEncoder(EncoderConfig(TrunkConfig(backbone="no_such_net")))


@pytest.mark.parametrize("embedding, length", [("so4", 18), ("cosine", 24), ("euclidean", 24)])
def test_spherical_jacobian_against_differences(embedding, length):
    encoder = SphericalEncoder(EncoderConfig(SMALL, elements=3, embedding=embedding)).double().eval()
    fixed, moving, jacobian = torch.rand(32, 32).double(), torch.rand(2, 32, 32).double(), torch.rand(2, 32, 32, 6).double()
    similarity = SphericalSimilarity(encoder, fixed)
    value, columns = similarity.residual_and_jacobian(moving, jacobian)
    assert value.shape == (2, length) and columns.shape == (2, length, 6)
    for axis in range(6):
        step = 1e-6 * jacobian[..., axis]
        numeric = (similarity.residual(moving + step) - similarity.residual(moving - step)) / 2e-6
        assert torch.allclose(columns[..., axis], numeric, atol=1e-6)
    assert torch.allclose(similarity.score(fixed[None].double()), torch.zeros(1).double(), atol=1e-6)
    valid = torch.ones(2, 32, 32)
    valid[1, :, :9] = 0
    seen = similarity.over(valid)
    assert (seen.residual(moving) == similarity.residual(moving)).all(1).tolist() == [True, False]
    one = torch.tensor([1])
    assert torch.allclose(seen.of(one).residual_and_jacobian(moving[one], jacobian[one])[1], seen.residual_and_jacobian(moving, jacobian)[1][one])
    assert similarity.of(one) is similarity


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_ablation_residuals_measure_their_own_distance(kind):
    a, b = torch.randn(4, 5, 2, 4).double(), torch.randn(4, 5, 2, 4).double()
    if kind == "cosine":
        a, b = (torch.nn.functional.normalize(x.flatten(1), dim=-1).view_as(x) for x in (a, b))
        expected = torch.arccos((a * b).sum((1, 2, 3)))
    else:
        expected = (a - b).flatten(1).norm(dim=1)
    assert torch.allclose(embedding_residual(a, b, kind).norm(dim=1), expected)


def test_mixture_likelihood_is_that_of_a_gaussian():
    centre = torch.tensor([3.0, -2.0, 1.0]).double()
    pose = torch.eye(4).double()
    pose[2, 3] = 700.0
    pose[:3, :3] = so3_exp(torch.tensor([0.3, -0.4, 0.5]).double())  # shifts are judged in camera axes
    one = torch.ones(1, 1).double()
    mixture = PoseMixture(pose[None, None], one, 0.1 * one, 5 * one, 20 * one)
    in_camera = torch.tensor([2.0, -4.0, 10.0]).double()
    delta = torch.cat((torch.tensor([0.05, 0.0, -0.1]).double(), pose[:3, :3].T @ in_camera))[None]
    value = mixture.negative_log_likelihood(retract(pose[None], delta, centre), centre)
    spread = torch.tensor([0.1, 0.1, 0.1, 5, 5, 20]).double()
    expected = 0.5 * (torch.cat((delta[0, :3], in_camera)) / spread).square().sum() + spread.log().sum()
    assert torch.allclose(value, expected[None], atol=1e-9)


def test_the_component_that_has_most_likely_made_a_pose():
    centre = torch.zeros(3).double()
    two = torch.eye(4).double().expand(1, 2, 4, 4).clone()
    two[0, 1, 2, 3] = 100.0
    even, narrow = torch.full((1, 2), 0.5).double(), torch.tensor([[1.0, 40.0]]).double()

    def chosen(depth: float, weight: torch.Tensor = even, spread: torch.Tensor = 40 * even) -> float:
        pose = torch.eye(4).double()[None].clone()
        pose[0, 2, 3] = depth
        found = PoseMixture(two, weight, 0.1 * torch.ones(1, 2).double(), 5 * torch.ones(1, 2).double(), spread).likeliest_for(pose, centre)
        assert found.shape == (1, 4, 4)
        return float(found[0, 2, 3])

    assert (chosen(30.0), chosen(70.0)) == (0.0, 100.0)
    assert chosen(50.1, torch.tensor([[0.9, 0.1]]).double()) == 0.0  # the heavier one
    assert chosen(30.0, spread=narrow) == 100.0  # thirty of its spreads off the nearer one


def test_draws_of_a_mixture_have_its_spread():
    pose = torch.eye(4).double()
    pose[:3, :3] = so3_exp(torch.tensor([0.3, -0.4, 0.5]).double())
    pose[2, 3] = 700.0
    one = torch.ones(1, 1).double()
    mixture = PoseMixture(pose[None, None], one, 0.1 * one, 5 * one, 20 * one)
    centre = torch.tensor([3.0, -2.0, 1.0]).double()
    drawn = mixture.sample(4000, centre, torch.Generator().manual_seed(0))
    delta = local(pose.expand_as(drawn), drawn, centre)
    shift = delta[:, 3:] @ pose[:3, :3].T
    assert torch.allclose(delta[:, :3].std(0), torch.full((3,), 0.1).double(), rtol=0.1)
    assert torch.allclose(shift.std(0), torch.tensor([5.0, 5, 20]).double(), rtol=0.1)


def test_regressor_gives_rigid_poses_near_its_reference():
    reference = torch.eye(4)
    reference[2, 3] = 700.0
    regressor = PoseRegressor(RegressorConfig(SMALL, components=3), reference, torch.zeros(3))
    mixture = regressor(torch.rand(2, 1, 32, 32))
    rotation = mixture.pose[..., :3, :3]
    assert mixture.pose.shape == (2, 3, 4, 4)
    assert torch.allclose(rotation @ rotation.transpose(-1, -2), torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(2, 3), atol=1e-5)
    assert torch.allclose(mixture.weight.sum(1), torch.ones(2))

"""Class-conditional training: the networks, the steps against the textbook, exact resume, samples of a class."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training import Config, Run, Trainer, UserError, build_models, load_data
from wgan_fast.training.data import images
from wgan_fast.training.data.sets import TensorData, split
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.models.conditional import ProjectionCritic, embedding_dim
from wgan_fast.training.models.pairs import Architecture
from wgan_fast.training.report.evaluation import evaluate
from wgan_fast.training.step.steps import critic_step, generator_step

SMALL: dict[str, Any] = {"width": 16, "batch_size": 8, "n_critic": 2, "critic_burst": False, "log_every": 3}
CLASSES = 3


def _config(**options: Any) -> Config:
    return Config(**{"data": "digits", "conditional": True, **SMALL, **options})


@pytest.mark.parametrize(
    ("architecture", "shape", "width"),
    [
        ("mlp", (2,), 32),
        ("mlp", (1, 5, 6), 32),
        ("pyramid", (1, 28, 28), 16),
        ("conv8", (1, 8, 8), 4),
        ("dcgan", (3, 32, 32), 4),
        ("dcgan", (1, 64, 64), 4),
        ("resnet", (3, 32, 32), 8),
    ],
)
def test_every_pair_takes_classes(architecture: Architecture, shape: tuple[int, ...], width: int) -> None:
    generator, critic = build_models(architecture, shape, 6, width, num_classes=CLASSES)
    generator.eval()
    latent = torch.randn(1, 6).expand(CLASSES, 6)
    labels = torch.arange(CLASSES)
    samples = generator(latent, labels)
    assert samples.shape == (CLASSES, *shape)
    assert not torch.allclose(samples[0], samples[1])
    assert isinstance(critic, ProjectionCritic)
    x = samples[:1].detach().expand_as(samples)
    scores = critic(x, labels)
    assert scores.shape == (CLASSES,)
    assert not torch.allclose(scores[0], scores[1])
    gradients = []
    for exact_shortcut in (True, False):
        penalty, _ = GradientPenalty(10.0).penalty(critic, x, x, critic_args=(labels,), exact_shortcut=exact_shortcut)
        gradients.append(torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True))
    for parameter, short, full in zip(critic.parameters(), *gradients, strict=True):
        zero = torch.zeros_like(parameter)
        short, full = (zero if gradient is None else gradient for gradient in (short, full))
        assert torch.allclose(short, full, rtol=1e-4, atol=1e-5 * full.abs().max().item())
    for embedding in (critic.shift, critic.projection):
        assert torch.autograd.grad(critic(x, labels).sum(), embedding.weight)[0].abs().sum() > 0
    for embedding in (critic.shift, critic.projection):
        nn.init.zeros_(embedding.weight)
    assert torch.equal(critic(x, labels), nn.Sequential(critic.first, critic.features, critic.head)(x))


def test_a_shift_of_the_first_layer_is_a_class_joined_to_its_input() -> None:
    _, critic = build_models("mlp", (2,), 6, 32, num_classes=CLASSES)
    assert isinstance(critic, ProjectionCritic)
    nn.init.zeros_(critic.projection.weight)
    x, labels = torch.randn(7, 2), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    linear = critic.first[1]
    joined = torch.cat([x, nn.functional.one_hot(labels, CLASSES)], dim=1)
    hidden = nn.functional.linear(joined, torch.cat([linear.weight, critic.shift.weight.T], dim=1), linear.bias)
    expected = critic.head(critic.features(hidden))
    assert torch.allclose(critic(x, labels), expected, atol=1e-6)


def test_the_embedding_of_many_classes_stays_small() -> None:
    assert [embedding_dim(n) for n in (2, 10, 1000)] == [2, 10, 64]
    generator, _ = build_models("mlp", (2,), 3, 8, num_classes=1000)
    assert generator(torch.randn(2, 3), torch.tensor([0, 999])).shape == (2, 2)


class OneHotGenerator(nn.Module):
    """Any pair of modules that take a second argument can be used, not only the built-in ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4 + CLASSES, 5)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.layer(torch.cat([z, nn.functional.one_hot(y, CLASSES).to(z)], dim=1)).tanh()


class OneHotCritic(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        first = nn.Linear(5 + CLASSES, 8, bias=not norm)
        self.layers = nn.Sequential(first, nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat([x, nn.functional.one_hot(y, CLASSES).to(x)], dim=1))


@pytest.mark.parametrize("constraint", [GradientPenalty(10.0), WeightClipping(0.05)], ids=["gp", "clip"])
@pytest.mark.parametrize("joint", [True, False])
def test_steps_equal_the_textbook(constraint: Constraint, joint: bool) -> None:
    clip = isinstance(constraint, WeightClipping)
    generator, critic = OneHotGenerator().double(), OneHotCritic(norm=clip and not joint).double()
    reference = copy.deepcopy(critic)
    real, latent = torch.randn(6, 5).double(), torch.randn(6, 4).double()
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    optimizer = RMSprop(critic.parameters(), lr=0.01, clip_value=0.05) if clip else Adam(critic.parameters(), lr=0.01)
    plain: torch.optim.Optimizer = torch.optim.RMSprop(reference.parameters(), lr=0.01)
    if not clip:
        plain = torch.optim.Adam(reference.parameters(), lr=0.01)

    fake = generator(latent, labels).detach()
    loss = -(reference(real, labels).mean() - reference(fake, labels).mean())
    if not clip:
        torch.manual_seed(5)
        alpha = torch.rand(6).double()[:, None]
        x = torch.lerp(fake, real, alpha).requires_grad_()
        (gradients,) = torch.autograd.grad(reference(x, labels).sum(), x, create_graph=True)
        loss = loss + 10 * ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    loss.backward()
    plain.step()
    if clip:
        for p in reference.parameters():
            p.data.clamp_(-0.05, 0.05)

    if not clip:
        constraint = _at_alpha(alpha)
    seen = critic_step(critic, generator, optimizer, constraint, real, latent, labels, joint=joint)
    assert seen.loss.item() == pytest.approx(loss.item())
    for ours, theirs in zip(critic.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)

    expected = -critic(generator(latent, labels), labels).mean()
    seen_by_generator = generator_step(critic, generator, Adam(generator.parameters()), latent, labels)
    assert seen_by_generator.item() == pytest.approx(expected.item())


def _at_alpha(alpha: Tensor) -> Constraint:
    class FixedAlpha(GradientPenalty):
        def penalty(self, critic: Any, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
            return super().penalty(critic, real, fake, alpha=alpha, **options)

    return FixedAlpha(10.0)


@pytest.mark.parametrize("constraint", ["gp", "clip", "r1"])
def test_resumed_equals_uninterrupted(tmp_path: Path, constraint: Any) -> None:
    config = _config(constraint=constraint, iterations=12, checkpoint_every=100)
    whole = build_trainer(config)
    Run(whole, tmp_path / "whole").train()
    first = build_trainer(config)
    Run(first, tmp_path / "parts").train(lambda record: first.stop() if record["iteration"] == 6 else None)
    torch.manual_seed(12345)
    second = build_trainer(config)
    run = Run(second, tmp_path / "parts")
    run.load()
    run.train()
    for a, b in ((whole.critic, second.critic), (whole.average.module, second.average.module)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parts" / "metrics.jsonl").read_text()


def test_batches_are_those_of_an_unconditional_run_with_their_classes() -> None:
    labels = torch.arange(60) % 4
    data = split("pairs", labels.float().view(60, 1), labels)
    plain = data.batch(30, torch.Generator().manual_seed(1))
    samples, classes = data.labelled_batch(30, torch.Generator().manual_seed(1))
    assert torch.equal(plain, samples)
    assert classes is not None
    assert torch.equal(samples.flatten().long(), classes)
    assert data.num_classes == 4
    with pytest.raises(UserError, match="numbers: the data has no labels"):
        split("numbers", torch.randn(9, 2)).labelled_batch(3, torch.Generator())


def test_samples_are_of_the_classes_asked_for() -> None:
    """Two points a class apart are learned in an instant: every sample lies at its class's point."""
    labels = torch.arange(400) % 2
    samples = torch.where(labels[:, None] == 0, -0.5, 0.5) * torch.ones(400, 2) + 0.01 * torch.randn(400, 2)
    config = _config(data="two", iterations=80, batch_size=64, learning_rate=2e-3, latent_dim=4, log_every=50)
    data = split("two", samples, labels)
    pair = build_models("mlp", (2,), 4, 32, num_classes=2)
    trainer = Trainer(*pair, data, config)
    trainer.train()
    for label, place in ((0, -0.5), (1, 0.5)):
        assert (trainer.sample(64, labels=label).mean(dim=0) - place).abs().max() < 0.25
    mixed = trainer.sample(4, labels=[0, 1, 0, 1])
    assert torch.equal(mixed, trainer.sample(4, labels=torch.tensor([0, 1, 0, 1])))
    assert torch.equal((mixed[:, 0] > 0).long(), torch.tensor([0, 1, 0, 1]))
    assert (trainer.sample(200)[:, 0] > 0).float().mean().item() == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (10, "classes are numbered from 0 to 9, got 10"),
        (-1, "classes are numbered from 0 to 9, got -1"),
        ([0, 1], r"one class or of shape \(4,\), got shape \(2,\)"),
        (torch.zeros(4), "labels must be integers, got torch.float32"),
    ],
)
def test_wrong_classes_are_refused(labels: Any, message: str) -> None:
    trainer = build_trainer(_config(iterations=1))
    with pytest.raises(UserError, match=message):
        trainer.sample(4, labels=labels)
    with pytest.raises(UserError, match="takes no class: it was not trained with --conditional"):
        build_trainer(_config(iterations=1, conditional=False)).sample(4, labels=0)


@pytest.mark.parametrize("data", ["8gaussians", pytest.param("photos", marks=pytest.mark.needs("sklearn", "PIL"))])
def test_data_without_labels_is_refused(data: str) -> None:
    with pytest.raises(UserError, match=f"--conditional: {data} has no labels of at least 2 classes"):
        build_trainer(_config(data=data))


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("constraint", ["spectral", "lipschitz"])
def test_constraints_that_do_not_reach_the_projection_are_refused(constraint: Any) -> None:
    with pytest.raises(UserError, match=f"--conditional contradicts --constraint {constraint}"):
        build_trainer(_config(constraint=constraint))


def test_a_run_knows_its_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((40, 8, 8), np.float32)
    np.savez(tmp_path / "a.npz", images=values, labels=np.arange(40) % 4)
    Run.start(tmp_path / "run", _config(data=f"npz:{tmp_path / 'a.npz'}", iterations=2)).train()
    assert Run.open(tmp_path / "run").trainer.config.num_classes == 4
    np.savez(tmp_path / "a.npz", images=values, labels=np.arange(40) % 5)
    with pytest.raises(UserError, match="has 5 classes, but the run was made for 4"):
        Run.open(tmp_path / "run")


def test_classes_without_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 8, 8)), labels=np.arange(40) % 2 * 3)
    with pytest.raises(UserError, match=r"no training sample of class 1; .* without gaps, and the largest is 3"):
        build_trainer(_config(data=f"npz:{tmp_path / 'a.npz'}"))


def test_subfolders_are_classes(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in enumerate(("bird", "ant", "cat")):
        (tmp_path / name / "inner").mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 60 * number).save(tmp_path / name / "inner" / f"{index}.png")
    samples, labels = images.folder(tmp_path, 8)
    assert labels is not None
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert samples[:, 0, 0, 0].tolist() == [60] * 4 + [0] * 4 + [120] * 4
    conditional = load_data(f"folder:{tmp_path}", image_size=8, conditional=True)
    assert isinstance(conditional, TensorData)
    assert conditional.num_classes == 3
    plain = load_data(f"folder:{tmp_path}", image_size=8)
    assert isinstance(plain, TensorData)
    assert plain.train_labels is None
    assert torch.equal(plain.train_samples, conditional.train_samples)
    Image.new("L", (8, 8)).save(tmp_path / "stray.png")
    assert images.folder(tmp_path, 8)[1] is None
    with pytest.raises(UserError, match="has no labels of at least 2 classes"):
        build_trainer(_config(data=f"folder:{tmp_path}", image_size=8))


def test_points_with_classes_are_drawn_without_the_critic(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((40, 2)), labels=np.arange(40) % 2)
    run = Run(build_trainer(_config(data=f"npz:{tmp_path / 'a.npz'}", iterations=2)), tmp_path / "run")
    run.train()
    assert [file.name for file in run.write_pictures()] == ["samples.png", "curves.png"]


class NearestNeighbour(nn.Module):
    """Stands in for the trained network, which takes its time: the class of the nearest training sample."""

    num_features, task, accuracy = 8, "10 classes", 0.98

    def __init__(self, data: TensorData) -> None:
        super().__init__()
        self.data = data

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, 20:28]

    def classify(self, x: Tensor) -> Tensor:
        assert self.data.train_labels is not None
        nearest = torch.cdist(x.flatten(1), self.data.train_samples.flatten(1)).argmin(dim=1)
        return self.data.train_labels[nearest]


def test_a_picture_of_a_conditional_run_shows_a_class_per_row(tmp_path: Path) -> None:
    from PIL import Image

    run = Run(build_trainer(_config(iterations=3)), tmp_path)
    run.train()
    run.write_pictures()
    side = 7 * 8 + 4
    assert Image.open(tmp_path / "samples.png").size == (10 * side + 4, 10 * side + 4)


def test_the_share_recognised_as_their_class(tmp_path: Path) -> None:
    real = load_data("digits")
    assert isinstance(real, TensorData)
    assert real.held_out_labels is not None

    def sample(count: int) -> Tensor:
        return real.held_out(count, torch.Generator().manual_seed(0))

    def sample_classes(labels: Tensor) -> Tensor:
        """A generator that knows the held-out data by heart, and draws a zero for every seven."""
        chosen = torch.where(labels == 7, 0, labels)
        first = torch.stack([(real.held_out_labels == c).nonzero()[0, 0] for c in chosen])
        return real.held_out_samples[first]

    network: Any = NearestNeighbour(real)
    evaluation = evaluate(sample, real, sample_classes=sample_classes, network=network)
    share = {figure.name: figure for figure in evaluation.figures}["recognised as their class"]
    assert float(str(share.held_out).rstrip("%")) > 90
    sevens = 100 * (real.held_out_labels == 7).float().mean().item()
    assert float(str(share.generated).rstrip("%")) < 100 - sevens + 0.1
    assert float(str(share.generated).rstrip("%")) > 60

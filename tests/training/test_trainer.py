"""The loop: schedule, learning, exact resume, stopping, averages, metrics, the user's own networks."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.constraints import GradientPenalty
from wgan_fast.training import Config, Run, Trainer, UserError
from wgan_fast.training.config import ConstraintName
from wgan_fast.training.data.points import eight_gaussians
from wgan_fast.training.data.sets import split
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.loop.choices import make_constraint
from wgan_fast.training.loop.schedules import critic_steps, gamma
from wgan_fast.training.loop.trainer import weight_saturation
from wgan_fast.training.run.checkpoint import iterations
from wgan_fast.training.run.log import RunLog, read_metrics

ALL = get_args(ConstraintName)
SMALL: dict[str, Any] = {"width": 16, "batch_size": 8, "n_critic": 2, "critic_burst": False, "log_every": 3}


def _config(**options: Any) -> Config:
    return Config(**{"data": "digits", **SMALL, **options})


@pytest.mark.parametrize(
    ("data", "constraint", "precision"),
    [("digits", name, "fp32") for name in ("clip", "gp", "lp")]
    + [("8gaussians", name, "fp32") for name in ALL]
    + [("8gaussians", "gp", "bf16")],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, data: str, constraint: Any, precision: Any) -> None:
    """Bit for bit: weights, optimizer state, averages, random generators, metrics.jsonl."""
    config = _config(data=data, constraint=constraint, precision=precision, iterations=20, checkpoint_every=100)
    whole = build_trainer(config)
    Run(whole, tmp_path / "whole").train()
    first = build_trainer(config)
    Run(first, tmp_path / "parts").train(lambda record: first.stop() if record["iteration"] == 6 else None)
    assert first.iteration == 6
    torch.manual_seed(12345)
    second = build_trainer(config)
    run = Run(second, tmp_path / "parts")
    run.load()
    run.train()
    assert second.iteration == 20
    for a, b in (
        (whole.critic, second.critic),
        (whole.generator, second.generator),
        (whole.average.module, second.average.module),
    ):
        for mine, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
    mine, theirs = (t.critic_optimizer.state_dict()["state"] for t in (whole, second))
    assert mine.keys() == theirs.keys()
    for index in mine:
        assert all(torch.equal(mine[index][name], theirs[index][name]) for name in mine[index])
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parts" / "metrics.jsonl").read_text()
    upcoming = [trainer.data.batch(4, trainer.draws.order) for trainer in (whole, second)]
    assert torch.equal(*upcoming)


def test_metrics_of_iterations_that_are_run_again_are_dropped(tmp_path: Path) -> None:
    config = _config(iterations=12, checkpoint_every=5, log_every=1)
    trainer = build_trainer(config)
    Run(trainer, tmp_path).train()
    log = tmp_path / "metrics.jsonl"
    complete = log.read_text()
    shutil.rmtree(tmp_path / "checkpoints" / "00000012")
    log.write_text(complete + '{"iteration": 13, "wass')  # as a crash would leave it
    resumed = build_trainer(config)
    Run(resumed, tmp_path).load()
    assert resumed.iteration == 10
    Run(resumed, tmp_path).train()
    assert log.read_text() == complete
    assert [json.loads(line)["iteration"] for line in complete.splitlines()] == list(range(1, 13))


def test_the_burst_of_the_paper() -> None:
    steps = [critic_steps(Config(data="8gaussians", constraint="clip"), i) for i in range(1001)]
    assert [i for i, count in enumerate(steps) if count == 100] == [*range(25), 500, 1000]
    assert set(steps) == {5, 100}
    assert critic_steps(Config(data="8gaussians"), 0) == 5


def test_every_iteration_takes_its_steps() -> None:
    trainer = build_trainer(_config(iterations=4, n_critic=3))
    before = copy.deepcopy(trainer.critic.state_dict())
    trainer.train()
    steps = [int(state["step"]) for state in trainer.critic_optimizer.state_dict()["state"].values()]
    assert set(steps) == {12}
    assert {int(s["step"]) for s in trainer.generator_optimizer.state_dict()["state"].values()} == {4}
    assert any(
        not torch.equal(a, b) for a, b in zip(before.values(), trainer.critic.state_dict().values(), strict=True)
    )


def test_weight_clipping_holds_and_is_logged(tmp_path: Path) -> None:
    trainer = build_trainer(_config(constraint="clip", iterations=6, clip_value=0.02))
    Run(trainer, tmp_path).train()
    assert all(p.abs().max() <= torch.tensor(0.02) for p in trainer.critic.parameters())
    record = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert 0 < record["weight_saturation"] <= 1
    assert record["gradient_norm"] > 0
    assert "penalty" not in record


@pytest.mark.parametrize("constraint", ["clip", "spectral"])
def test_logging_does_not_change_the_training(constraint: Any) -> None:
    often, seldom = (build_trainer(_config(constraint=constraint, iterations=6, log_every=n)) for n in (1, 1000))
    for trainer in (often, seldom):
        torch.manual_seed(1)
        trainer.train()
    for a, b in zip(often.critic.state_dict().values(), seldom.critic.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_learning_rate_falls_linearly_to_zero() -> None:
    trainer = build_trainer(_config(iterations=4, lr_decay=True, learning_rate=0.1, log_every=1))
    optimizers = (trainer.critic_optimizer, trainer.generator_optimizer)
    seen: list[float] = []
    trainer.train(lambda _: seen.extend(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
    assert seen == pytest.approx([0.1, 0.1, 0.075, 0.075, 0.05, 0.05, 0.025, 0.025])


def test_average_follows_weights_and_running_statistics() -> None:
    generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    critic = nn.Linear(2, 1)
    trainer = Trainer(generator, critic, eight_gaussians(), _config(data="8gaussians", ema_decay=0.9, iterations=1))
    expected = copy.deepcopy(generator.state_dict())
    decay = min(0.9, 1 / 10)
    trainer.train()
    for name, value in generator.state_dict().items():
        start, average = expected[name], trainer.average.module.state_dict()[name]
        wanted = torch.lerp(start, value, 1 - decay) if value.is_floating_point() else value
        assert torch.allclose(average, wanted, rtol=1e-6)
    assert not any(p.requires_grad for p in trainer.average.module.parameters())
    assert generator.training
    trainer.sample(3)
    assert generator.training


def test_tied_weights_are_averaged_once_and_saved(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    config = _config(data="8gaussians", ema_decay=0.9, iterations=1)
    start = first.weight.detach().clone()
    trainer = Trainer(nn.Sequential(first, second), nn.Linear(2, 1), eight_gaussians(), config)
    Run(trainer, tmp_path).train()
    average = trainer.average.module[0].weight  # type: ignore[index, union-attr]
    assert torch.allclose(average, torch.lerp(start, first.weight.detach(), 1 - 1 / 10))
    Run(trainer, tmp_path).load()


def test_without_an_average_samples_come_from_the_generator() -> None:
    trainer = build_trainer(_config(ema_decay=0.0, iterations=1))
    assert trainer.average.module is trainer.generator
    samples = trainer.sample(10, seed=4, batch_size=3)
    assert samples.shape == (10, 1, 8, 8)
    assert torch.allclose(samples, trainer.sample(10, seed=4), atol=1e-6)
    assert not torch.equal(samples, trainer.sample(10, seed=5))
    assert trainer.generator.training


class PatchCritic(nn.Module):
    """A user's critic: a map of scores first, something else second."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.convolution(x), "extra"


def test_networks_and_data_of_ones_own(tmp_path: Path) -> None:
    generator = nn.Sequential(nn.Linear(5, 36), nn.Unflatten(1, (1, 6, 6)))
    config = Config(sample_shape=(1, 6, 6), latent_dim=5, iterations=3, batch_size=4)
    trainer = Trainer(generator, PatchCritic(), torch.randn(30, 1, 6, 6), config)
    result = Run(trainer, tmp_path).train()
    assert result.iterations == 3
    assert math.isfinite(result.last["wasserstein_estimate"])
    other = Trainer(copy.deepcopy(generator), PatchCritic(), trainer.data, trainer.config)
    Run(other, tmp_path).load()
    assert torch.equal(other.sample(2), trainer.sample(2))


def test_wgan_gp_learns_where_the_data_is() -> None:
    data = split("blob", torch.randn(500, 2) * 0.1 + torch.tensor([1.0, -1.0]))
    config = Config(data="blob", width=32, batch_size=64, iterations=150, learning_rate=2e-3, ema_decay=0.9)
    torch.manual_seed(0)
    from wgan_fast.training import build_models

    trainer = Trainer(*build_models("mlp", (2,), 2, 32), data, config)
    trainer.train()
    assert torch.allclose(trainer.sample(500).mean(dim=0), torch.tensor([1.0, -1.0]), atol=0.25)


@pytest.mark.parametrize("options", [{"width": 17}, {"latent_dim": 5}, {"constraint": "spectral"}])
def test_a_checkpoint_of_other_networks_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    Run(build_trainer(_config(iterations=1)), tmp_path).train()
    other = build_trainer(_config(iterations=1, **options))
    with pytest.raises(UserError, match="its checkpoint belongs to other networks"):
        Run(other, tmp_path).load()


def test_a_folder_that_holds_more_of_a_run_is_left_alone(tmp_path: Path) -> None:
    trainer = build_trainer(_config(iterations=6, checkpoint_every=3))
    Run(trainer, tmp_path).train()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    other = build_trainer(_config(iterations=6))
    with pytest.raises(UserError, match="holds a checkpoint of iteration 6, but this trainer has done 0: load"):
        Run(other, tmp_path).train()
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    Run(other, tmp_path).load(3)
    with pytest.raises(UserError, match="holds a checkpoint of iteration 6, but this trainer has done 3"):
        Run(other, tmp_path).train()


def test_the_nearest_to_held_out_samples_is_the_best(tmp_path: Path) -> None:
    trainer = build_trainer(_config(data="8gaussians", iterations=5, checkpoint_every=1, keep_checkpoints=1))
    distances: list[float] = []

    def distance(generated: Tensor, real: Tensor) -> float:
        assert generated.shape == real.shape == (512, 2)
        distances.append({1: 3.0, 2: 1.0}.get(trainer.iteration, 2.0))
        return distances[-1]

    run = Run(trainer, tmp_path, distance=distance)
    run.train()
    assert distances == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert iterations(tmp_path) == [2, 5]
    run.load("best")
    assert trainer.iteration == 2


@pytest.mark.needs("ot")
def test_comparing_with_held_out_samples_does_not_change_the_training(tmp_path: Path) -> None:
    config = _config(data="8gaussians", iterations=6, checkpoint_every=2)
    trainers = [build_trainer(config), build_trainer(config)]
    Run(trainers[0], tmp_path).train()
    torch.manual_seed(config.seed)
    trainers[1] = build_trainer(config)
    trainers[1].train()
    for a, b in zip(*(t.generator.state_dict().values() for t in trainers), strict=True):
        assert torch.equal(a, b)
    manifest = json.loads((tmp_path / "checkpoints" / "00000006" / "manifest.json").read_text())
    assert 0 < manifest["sliced_wasserstein"] < 10


def test_an_unwritable_folder_is_one_sentence_and_keeps_what_there_is(tmp_path: Path) -> None:
    trainer = build_trainer(_config(iterations=4, checkpoint_every=2))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\)"):
        Run(trainer, tmp_path / "file" / "run").train()
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"00000000: the checkpoint cannot be written .*no intact checkpoint"):
        Run(trainer, run).train()
    log = tmp_path / "metrics.jsonl"
    log.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(No space left on device\)"):
        RunLog(tmp_path, tensorboard=False).append({"iteration": 1})


def test_batch_normalised_critics_are_scored_apart() -> None:
    config = _config(data="8gaussians", constraint="clip", iterations=2)
    critic = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    trainer = Trainer(nn.Linear(2, 2), critic, eight_gaussians(), config)
    sizes: list[int] = []
    critic.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    last = trainer.train().last
    assert set(sizes) == {8}
    assert "wasserstein_estimate" in last
    assert "gradient_norm" not in last


def test_weight_saturation_counts_weights_at_the_bound() -> None:
    critic = nn.Linear(4, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[0.01, -0.01, 0.0, 0.005]]))
        critic.bias.fill_(0.0)
    assert weight_saturation(critic, 0.01) == pytest.approx(0.4)
    assert weight_saturation(critic, (-1.0, 0.01)) == pytest.approx(0.2)


def test_metrics_log_starts_anew_without_a_file(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.resume_after(0)
    log.append({"iteration": 1, "a": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 1, "a": 0.5}]


@pytest.mark.needs("sklearn", "PIL")
def test_a_critic_that_a_constraint_does_not_fit_is_one_sentence() -> None:
    options = {"architecture": "resnet", "data": "photos", "constraint": "lipschitz", "width": 4}
    with pytest.raises(UserError, match=r"the constraint does not fit this critic: 0: CriticBlock has no certified"):
        build_trainer(_config(**options))


def test_the_prepared_critic_is_the_one_that_is_trained() -> None:
    """Converted critics are new modules; their slope stays at 1 after training, whatever the step size."""
    trainer = build_trainer(_config(data="8gaussians", constraint="lipschitz", iterations=10, learning_rate=0.1))
    trainer.train()
    x = (3 * torch.randn(200, 2)).requires_grad_()
    (gradients,) = torch.autograd.grad(trainer.critic(x).sum(), x)
    assert gradients.norm(dim=1).max() <= 1 + 1e-3
    assert gradients.norm(dim=1).max() > 0.1
    assert all(p.grad is not None for p in trainer.critic.parameters())


def test_gamma_falls_to_its_final_value() -> None:
    seen = {}
    for decay in ("none", "linear", "cosine"):
        config = _config(
            data="8gaussians", constraint="r1", gamma=2.0, gamma_decay=decay, gamma_final=1.0, iterations=4
        )
        seen[decay] = [gamma(config, iteration) for iteration in range(5)]
    assert seen["none"] == [2.0] * 5
    assert seen["linear"] == [2.0, 1.75, 1.5, 1.25, 1.0]
    assert seen["cosine"] == pytest.approx([2.0, 1.8536, 1.5, 1.1464, 1.0], abs=1e-4)


def test_a_falling_gamma_weighs_the_penalty() -> None:
    """Half way down from 2 to 1, an iteration is the same as with a constant 1.5."""
    falling = _config(data="8gaussians", constraint="r1r2", gamma=2.0, gamma_decay="linear", gamma_final=1.0)
    constant = _config(data="8gaussians", constraint="r1r2", gamma=1.5)
    critics = []
    for config in (falling, constant):
        trainer = build_trainer(dataclasses.replace(config, iterations=2))
        trainer.iteration = 1
        trainer.iterate()
        critics.append(trainer.critic)
    for mine, theirs in zip(*(critic.parameters() for critic in critics), strict=True):
        torch.testing.assert_close(mine, theirs)


@dataclasses.dataclass(frozen=True)
class Counted(GradientPenalty):
    """Records each critic that ``penalty`` is called with."""

    asked: list[Any] = dataclasses.field(default_factory=list)

    def penalty(self, critic: Any, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        self.asked.append(critic)
        return super().penalty(critic, real, fake, **options)


@pytest.mark.parametrize(("lazy", "penalties"), [(1, 8), (3, 3)])
def test_a_lazy_penalty_is_taken_in_every_nth_critic_step(lazy: int, penalties: int) -> None:
    config = _config(data="8gaussians", constraint="gp", lambda_gp=0.2, lazy=lazy, iterations=4)
    built = build_trainer(config)
    constraint = Counted()
    Trainer(built.generator, built.critic, built.data, config, constraint=constraint).train()
    assert len(constraint.asked) == penalties  # of the 8 critic steps
    assert make_constraint(config) == GradientPenalty(pytest.approx(0.2 * lazy))


def test_a_resumed_lazy_run_keeps_its_place(tmp_path: Path) -> None:
    config = _config(data="8gaussians", constraint="r1", lazy=3, iterations=6, checkpoint_every=100)
    whole = build_trainer(config)
    whole.train()
    first = build_trainer(config)
    Run(first, tmp_path).train(lambda record: first.stop() if record["iteration"] == 3 else None)
    second = build_trainer(config)
    run = Run(second, tmp_path)
    run.load()
    run.train()
    for mine, theirs in zip(whole.critic.state_dict().values(), second.critic.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_recipe_of_r3gan_trains() -> None:
    trainer = build_trainer(_config(data="8gaussians", recipe="r3gan", iterations=3, log_every=1))
    assert (trainer.config.constraint, trainer.config.loss) == ("r1r2", "relativistic")
    assert trainer.config.gamma_decay == "cosine"
    records: list[Any] = []
    trainer.train(records.append)
    assert len(records) == 3
    assert all(math.isfinite(record["critic_loss"]) and record["penalty"] > 0 for record in records)

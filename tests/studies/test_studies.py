"""Every study at its smallest size, and the mathematics in what it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wgan_fast.studies import STUDIES, point_mass
from wgan_fast.studies.study import collect, run_study
from wgan_fast.training.errors import UserError

Numbers = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Numbers]:
    """Runs a study once, and gives its JSON with the folder that holds it."""
    out = tmp_path_factory.mktemp("studies")
    contents: dict[str, Numbers] = {}

    def run(name: str) -> Numbers:
        if name not in contents:
            report = run_study(name, size="smoke", seed=3, out=out)
            contents[name] = json.loads((out / f"{name}.json").read_text()) | {"out": out, "printed": report.findings}
        return contents[name]

    return run


def _of(content: Numbers, case: str, name: str) -> np.ndarray[Any, Any]:
    return np.array([m["numbers"][name] for m in content["measurements"] if m["case"] == case], dtype=float)


@pytest.mark.parametrize("name", STUDIES)
def test_study_writes_figure_numbers_and_two_sentences(name: str, written: Callable[[str], Numbers]) -> None:
    from PIL import Image

    content = written(name)
    assert content["study"] == name
    assert content["seeds"] == [3, 4]
    cases = {m["case"] for m in content["measurements"]}
    assert len(content["measurements"]) == 2 * len(cases)
    assert content["versions"].keys() == {"wgan_fast", "torch", "numpy", "POT", "python"}
    assert content["findings"] == content["printed"]
    assert content["findings"].count(". ") == 1
    assert content["findings"].endswith(".")
    with Image.open(content["out"] / f"{name}.png") as picture:
        assert picture.width >= 900
        assert len(picture.convert("L").getcolors()) > 20


def test_point_masses(written: Callable[[str], Numbers]) -> None:
    content = written("point-mass")
    theta = _of(content, "lp", "theta")
    apart = theta != 0
    assert 0 in theta
    assert _of(content, "lp", "js_exact")[apart] == pytest.approx(math.log(2), rel=1e-5)
    assert (_of(content, "lp", "js_exact")[~apart] == 0).all()
    assert (_of(content, "lp", "js_gradient_exact")[apart] == 0).all()
    assert (_of(content, "lp", "kl_exact") == np.where(apart, np.inf, 0)).all()
    for name in ("w1_primal", "w1_pot"):
        assert _of(content, "lp", name) == pytest.approx(np.abs(theta), rel=1e-5)
    assert _of(content, "lp", "w1_gradient_exact") == pytest.approx(np.sign(theta), abs=1e-5)


def test_divergences_are_those_of_the_theory(written: Callable[[str], Numbers]) -> None:
    content = written("divergences")
    theta = _of(content, "lines", "theta")
    apart = theta > 0
    assert _of(content, "lines", "js_exact")[apart] == pytest.approx(math.log(2), rel=1e-5)
    assert (_of(content, "lines", "kl_exact")[apart] == np.inf).all()
    assert _of(content, "uniform", "js_exact") == pytest.approx(math.log(2) * theta.clip(max=1), rel=1e-5)
    assert _of(content, "normal", "kl_exact") == pytest.approx(2 * theta**2, rel=1e-5)
    assert (np.diff(_of(content, "normal", "js_exact")) > 0).all()
    for case in ("normal", "uniform", "lines"):
        assert _of(content, case, "w1_exact") == pytest.approx(theta)
        # Shifting one sample by θ moves POT's optimum by at most θ, and by θ but for chance.
        assert (np.abs(_of(content, case, "w1_pot") - theta) < 0.5).all()


def test_jensen_shannon_of_normals_agrees_with_its_derivative() -> None:
    from wgan_fast.studies.divergences import Normal

    for theta in (0.3, 1.0, 2.5):
        step = 1e-4
        up, down = (Normal().jensen_shannon(theta + change)[0] for change in (step, -step))
        assert Normal().jensen_shannon(theta)[1] == pytest.approx((up - down) / (2 * step), rel=1e-5)
    assert Normal().jensen_shannon(10.0)[0] == pytest.approx(math.log(2), rel=1e-6)


def test_exact_critic_attains_w1(written: Callable[[str], Numbers]) -> None:
    content = written("critic-value-surface")
    for name in ("8gaussians", "25gaussians", "swissroll"):
        case = f"exact {name}"
        assert _of(content, case, "estimate") == pytest.approx(_of(content, case, "w1_exact"), rel=1e-4)
        assert _of(content, case, "correlation_with_exact") == pytest.approx(1)
        for kind in ("clip", "gp"):
            assert (_of(content, f"{kind} {name}", "share_of_w1") <= 1 + 1e-4).all()


def test_estimate_never_exceeds_what_the_lipschitz_constant_allows(written: Callable[[str], Numbers]) -> None:
    content = written("estimate")
    for case in {m["case"] for m in content["measurements"]}:
        estimate, w1, lipschitz = (_of(content, case, n) for n in ("estimate", "w1_exact", "lipschitz_constant"))
        assert (estimate <= lipschitz * w1 * (1 + 1e-3) + 1e-5).all(), case
    assert (_of(content, "lipschitz", "lipschitz_constant") <= 1.001).all()


def test_clipped_weights_reach_the_bound(written: Callable[[str], Numbers]) -> None:
    content = written("weight-distribution")
    bin_width = 3 / 61
    for case in ("clip 0.01", "clip 0.1", "gp"):
        density = _of(content, case, "density")[:, -1]
        assert density.sum(axis=1) * bin_width == pytest.approx(1, rel=1e-3)
    assert (_of(content, "clip 0.01", "share_at_bound")[:, -1] > 0.2).all()


def test_the_gradient_through_a_deep_clipped_critic_shrinks_with_c(written: Callable[[str], Numbers]) -> None:
    content = written("clip-values")
    norms = _of(content, "clip 0.01", "layer_gradient_norms")
    assert norms.shape == (2, 12)
    # A layer of 8 weights of at most 0.01 a unit passes on at most 0.08 of what reaches it.
    assert (norms[:, :-1] <= 0.08 * norms[:, 1:]).all()


def test_saturating_gradient_is_the_smaller_one() -> None:
    import torch

    from wgan_fast.studies.to_convergence import generator_gradient_norm

    generator, critic = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    torch.nn.init.constant_(critic.bias, -20.0)  # a discriminator that is sure of itself
    latent = torch.randn(64, 3)
    saturating, other, wasserstein = (
        generator_gradient_norm(critic, generator, latent, name) for name in ("gan-minimax", "gan", "wgan")
    )
    assert saturating < 1e-6 * wasserstein
    assert other == pytest.approx(wasserstein, rel=1e-4)


def test_correlation_and_its_interval() -> None:
    from wgan_fast.studies.loss_correlates import correlation

    random = np.random.default_rng(0)
    x = random.normal(size=(3, 40))
    assert correlation(x, np.exp(x), of_ranks=True) == pytest.approx((1, 1, 1))
    assert correlation(x, -2 * x + 1, of_ranks=False) == pytest.approx((-1, -1, -1))
    expected = np.mean([np.corrcoef(a, np.exp(a))[0, 1] for a in x])
    assert correlation(x, np.exp(x), of_ranks=False)[0] == pytest.approx(expected)
    mean, low, high = correlation(x, random.normal(size=(3, 40)), of_ranks=True)
    assert low < 0 < high
    assert low < mean < high


def test_cost_table_counts_time_and_memory_of_every_constraint(written: Callable[[str], Numbers]) -> None:
    from wgan_fast.studies.constraints import COST, VARIANTS

    content = written("constraints")
    for name in ("milliseconds", "mebibytes"):
        assert _of(content, COST, name).shape == (2, len(VARIANTS))
        assert (_of(content, COST, name) > 0).all()
    memory = dict(zip(VARIANTS, _of(content, COST, "mebibytes").mean(axis=0), strict=True))
    assert memory["gp"] > memory["none"]


@pytest.mark.needs("ot")
def test_processes_give_the_numbers_of_one_process() -> None:
    settings = point_mass.Settings(3, 2, width=4, batch=2)
    sizes = {"smoke": settings, "default": settings}
    study: Any = SimpleNamespace(SIZES=sizes, CASES=point_mass.CASES, measure=point_mass.measure)
    apart, together = (collect(study, size, 5).measurements for size in ("default", "smoke"))
    assert [(m.case, m.seed) for m in apart] == [(case, seed) for case in ("gp", "lp") for seed in (5, 6, 7)]
    by_name = {(m.case, m.seed): m.numbers for m in apart}
    for m in together:
        for name, values in m.numbers.items():
            assert np.array_equal(values, by_name[m.case, m.seed][name]), name


def test_same_seed_same_numbers(written: Callable[[str], Numbers], tmp_path: Path) -> None:
    run_study("to-convergence", size="smoke", seed=4, out=tmp_path)
    again = json.loads((tmp_path / "to-convergence.json").read_text())["measurements"]
    first = [m for m in written("to-convergence")["measurements"] if m["seed"] == 4]
    assert [m["numbers"] for m in again if m["seed"] == 4] == [m["numbers"] for m in first]


@pytest.mark.parametrize(("name", "seed", "message"), [("nope", 0, "study nope is unknown"), ("point-mass", -1, "-1")])
def test_bad_arguments_are_named(name: str, seed: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_study(name, seed=seed, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()

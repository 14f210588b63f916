"""One pass equals autograd on critics drawn at random, of which those without smooth or mixing steps are quick."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_one_pass import assert_equal, autograd, is_quick, softplus, twice_the_scores, value_and_gradients
from torch import Tensor, nn

from wgan_fast import score_and_gradient

Step = Callable[[Tensor, Tensor, "Random", int], Tensor]

QUICK: dict[str, Step] = {
    "linear": lambda a, b, net, j: net.linears[j % 3](a),
    "matrix": lambda a, b, net, j: a @ net.linears[j % 3].weight,
    "vector": lambda a, b, net, j: (a @ net.offset).unsqueeze(1) + a,
    "activation": lambda a, b, net, j: ACTIVATIONS[j % len(ACTIVATIONS)](a * 1),
    "sum": lambda a, b, net, j: a + b,
    "difference": lambda a, b, net, j: torch.sub(a, b, alpha=0.5),
    "in place": lambda a, b, net, j: (a * 1).add_(b).mul_(0.5),
    "maximum": lambda a, b, net, j: torch.maximum(a, b),
    "choice": lambda a, b, net, j: torch.where(b > 0, a, net.offset),
    "offset": lambda a, b, net, j: net.offset - a,
    "scale": lambda a, b, net, j: a * net.offset.tanh(),
    "quotient": lambda a, b, net, j: a / net.offset.exp(),
    "prelu": lambda a, b, net, j: F.prelu(a, net.slope),
    "halves": lambda a, b, net, j: torch.cat([a[:, : j % 3], b[:, j % 3 :]], 1),
    "reversed": lambda a, b, net, j: a.flip(1),
    "sorted": lambda a, b, net, j: a.sort(1)[0],
    "folded": lambda a, b, net, j: net.linears[0](torch.stack([a, b], 1).flatten(0, 1)).view(len(a), 2, -1).mean(1),
    "pooled": lambda a, b, net, j: F.max_pool1d(a.unsqueeze(1), 3, 1, 1).squeeze(1),
    "convolved": lambda a, b, net, j: net.conv(a.unsqueeze(1)).amax(1),
    "labelled": lambda a, b, net, j: F.relu(a + net.labels(torch.arange(len(a)) % 3)),
    "centred": lambda a, b, net, j: a - a.detach().mean(0),
}

OTHER: dict[str, Step] = {
    "product": lambda a, b, net, j: a * torch.sigmoid(b),
    "smooth": lambda a, b, net, j: (torch.tanh, F.silu, F.softplus)[j % 3](a),
    "normed": lambda a, b, net, j: F.layer_norm(a, a.shape[1:]),
    "minibatch": lambda a, b, net, j: a - a.mean(0),
    "shifted": lambda a, b, net, j: a + b.roll(1, 0),
}

ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    F.relu,
    torch.relu_,
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.leaky_relu_(x, 0.1),
    lambda x: F.hardtanh(x, -0.7, 0.9),
    abs,
    F.softshrink,
    lambda x: x.clamp(-0.5, 2),
    lambda x: F.dropout(x, 0.3),
]


class Random(nn.Module):
    def __init__(self, features: int, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.enter = nn.Linear(features, 5)
        self.linears = nn.ModuleList(nn.Linear(5, 5, bias=i < 2) for i in range(3))
        self.conv = nn.Conv1d(1, 3, 3, padding=1)
        self.labels = nn.Embedding(3, 5)
        self.offset = nn.Parameter(torch.randn(5))
        self.slope = nn.Parameter(torch.tensor([0.2]))
        self.score = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.enter(x)]
        for kind, i, j in self.steps:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append((QUICK | OTHER)[kind](a, b, self, j))
        return self.score(values[-1] + 0.1 * values[0])


@st.composite
def random_critics(draw: st.DrawFn) -> tuple[Random, Tensor]:
    kinds = st.sampled_from([*QUICK, *QUICK, *OTHER])
    numbers = st.integers(0, 100)
    steps = draw(st.lists(st.tuples(kinds, numbers, numbers), min_size=1, max_size=8))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    features = draw(st.integers(1, 4))
    return Random(features, steps).double(), torch.randn(draw(st.integers(1, 5)), features).double()


seen = {"quick": 0, "other": 0}


@settings(max_examples=300, deadline=None, derandomize=True, phases=[Phase.generate])
@given(random_critics())
def _compare(critic_and_x: tuple[Random, Tensor]) -> None:
    critic, x = critic_and_x
    for loss in (softplus, twice_the_scores):
        theirs = value_and_gradients(loss, autograd, critic, x, ())
        ours = value_and_gradients(loss, score_and_gradient, critic, x, ())
        scale = max(1.0, *(float(g.detach().abs().max()) for g in theirs))
        assert_equal([g / scale for g in ours], [g / scale for g in theirs])
    quick = is_quick(score_and_gradient(critic, x)[0])
    if {kind for kind, _, _ in critic.steps} <= QUICK.keys():
        assert quick, (critic.steps, len(x))
        seen["quick"] += 1
    elif not quick:
        seen["other"] += 1


def test_random_critics_equal_autograd_and_many_of_either_kind_were_met() -> None:
    _compare()
    assert min(seen.values()) > 60

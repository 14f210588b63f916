"""The exact shortcut equals eager on critics drawn at random: layers, activations, norms, skips and products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_double_backward import ELEMENTWISE, LEFT_TO_AUTOGRAD, assert_same, value_and_gradients
from test_double_backward_smooth import FUSED
from torch import Tensor, nn

from wgan_fast.double_backward import exact_shortcut

ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    *(f for name, f in ELEMENTWISE.items() if "negative" not in name),
    *(f for name, f in LEFT_TO_AUTOGRAD.items() if name != "threshold in place"),
    *FUSED.values(),
]


# Of (values, weight), both (..., width). A large eps: rows of two values would be all rounding otherwise.
NORMS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, weight: F.layer_norm(a, a.shape[1:], weight, eps=0.1),
    lambda a, weight: F.layer_norm(a, a.shape[1:], None, weight, eps=0.1),
    lambda a, weight: F.rms_norm(a, a.shape[1:], weight, eps=0.1),
    lambda a, weight: F.group_norm(torch.stack([a, a.sin()], 2), a.shape[1], weight, weight, eps=0.1).sum(2),
    lambda a, weight: F.instance_norm(torch.stack([a, -a, a.cos()], 2), weight=weight, eps=0.1).mean(2),
]


@st.composite
def random_critics(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A random directed graph of linear layers, norms, activations, sums, products and skips over one input."""
    width, features = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["linear", "activation", "activation", "norm", "skip", "product", "reuse", "offset"]),
                st.integers(0, 100),
                st.integers(0, 100),
            ),
            min_size=1,
            max_size=9,
        )
    )
    torch.manual_seed(draw(st.integers(0, 2**16)))

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(features, width)
            self.linears = nn.ModuleList(nn.Linear(width, width, bias=draw(st.booleans())) for _ in range(3))
            self.offset = nn.Parameter(torch.randn(width))
            self.score = nn.Linear(width, 1)

        def forward(self, x: Tensor) -> Tensor:
            values = [self.enter(x)]
            for kind, i, j in steps:
                a, b = values[i % len(values)], values[j % len(values)]
                if kind in ("linear", "reuse"):
                    a = self.linears[j % 3 if kind == "linear" else 0](a)
                elif kind == "activation":
                    a = ACTIVATIONS[j % len(ACTIVATIONS)](a * 1)  # a copy: some work in place
                elif kind == "norm":
                    # A large eps: rows of two values would be all rounding otherwise.
                    a = NORMS[j % len(NORMS)](a, self.offset)
                elif kind == "skip":
                    a = a + b
                elif kind == "product":
                    a = a * torch.sigmoid(b)
                else:
                    a = a + self.offset
                values.append(a)
            return self.score(values[-1] + 0.1 * values[0])

    x = torch.randn(draw(st.integers(1, 4)), features, dtype=torch.float64)
    return Random().double(), x


@settings(max_examples=300, deadline=None, derandomize=True)
@given(random_critics())
def test_random_critics_equal_eager(critic_and_x: tuple[nn.Module, Tensor]) -> None:
    critic, x = critic_and_x
    eager = value_and_gradients(critic, x, nullcontext())
    if all(g is None or g.isfinite().all() for g in eager):
        assert_same(value_and_gradients(critic, x, exact_shortcut()), eager, 1e-11)

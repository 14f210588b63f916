"""Critics whose users take loss and penalty from one forward pass, and what each demands; adversarial ones besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from critics import ZOO, build
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

QUICK_OF_THE_ZOO = frozenset(
    [
        "mlp",
        "mlp_inplace",
        "groupsort",
        "dcgan",
        "dcgan_not_inplace",
        "resnet",
        "sequence",
        "volume",
        "pooled",
        "conditional",
        "shared_graph",
        "spectral_norm",
    ]
)
"""The critics of the zoo that one pass serves; the others have norms, smooth activations or checkpoints."""


class Lambda(nn.Module):
    """A function of x and of parameters drawn for it."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, x: Any) -> Tensor:
        return self.function(x, *self.weights)


class R3GAN(nn.Module):
    """Grouped convolutions, biases added apart, residual sums, blurred downsampling, cast weights (R3GAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.project = nn.Conv2d(8, 4, 1, bias=False)
        self.biases = nn.ParameterList(torch.randn(8) for _ in range(2))
        self.basis = nn.Conv2d(4, 4, 4, groups=4, bias=False)
        self.score = nn.Linear(4, 1, bias=False)
        self.register_buffer("blur", torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        y = F.leaky_relu(self.expand(h) + self.biases[0].view(1, -1, 1, 1), 0.2) * 1.41
        y = F.conv2d(y, self.grouped.weight.to(y.dtype), padding=1, groups=4)
        y = F.leaky_relu(y + self.biases[1].to(y.dtype).view(1, -1, 1, 1), 0.2)
        h = h + self.project(y)
        h = F.conv2d(F.pad(h, (1, 1, 1, 1)), self.blur.expand(4, 1, 3, 3), groups=4)[:, :, ::2, ::2]
        return self.score(self.basis(h).flatten(1)).view(x.shape[0])


class StyleGAN(nn.Module):
    """Equalised learning rates and addmm; with the standard deviation over the minibatch if asked."""

    def __init__(self, minibatch: bool) -> None:
        super().__init__()
        self.minibatch = minibatch
        self.conv = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.dense = nn.Parameter(torch.randn(5, (4 + minibatch) * 4))
        self.bias = nn.Parameter(torch.randn(5))
        self.out = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(F.conv2d(x, self.conv * 0.3, padding=1), 0.2).clamp(-3, 3)
        h = F.interpolate(h, scale_factor=0.5, mode="bilinear", align_corners=False)
        if self.minibatch:
            std = h.var(0, unbiased=False).add(1e-8).sqrt().mean()
            h = torch.cat([h, std.expand(len(h), 1, *h.shape[2:])], 1)
        h = torch.addmm(self.bias.unsqueeze(0), h.flatten(1), self.dense.t() * 0.2)
        return self.out(F.leaky_relu(h, 0.2))


class Projection(nn.Module):
    """A label's embedding projected on the features, another one concatenated, a third scaling a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.embedding, self.gain = nn.Embedding(5, 6), nn.Embedding(5, 4)
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
        self.head = nn.Linear(8, 6)
        self.score = nn.Linear(6, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        label = self.embedding(labels)
        h = F.relu(self.conv(x) * self.gain(labels)[:, :, None, None]).sum((2, 3))
        h = F.leaky_relu(self.head(torch.cat([h, self.net(label)], 1)), 0.1)
        return self.score(h) + (h * label).sum(1, keepdim=True)


def amp() -> nn.Module:
    layers = [nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()]
    critic = nn.Sequential(*layers, nn.Linear(8, 1))
    nn.init.zeros_(critic[0].bias)
    return critic


def ctgan() -> nn.Module:
    def layer(a: int, b: int) -> list[nn.Module]:
        return [nn.Linear(a, b), nn.LeakyReLU(0.2), nn.Dropout(0.5)]

    return nn.Sequential(*layer(12, 9), *layer(9, 9), nn.Linear(9, 1))


def patchgan(pooled: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)]
    return nn.Sequential(*layers, *([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if pooled else []))


def per_position() -> nn.Module:
    """Samples are sequences; a linear layer sees each position of each as a row of its own."""

    def score(x: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
        rows = F.relu(F.linear(x.reshape(-1, x.shape[-1]), w, b))
        return (rows.view(len(x), -1, rows.shape[-1]) @ v).amax(1)

    return Lambda(score, (5, 4), (5, 1), (5,))


def maxout() -> nn.Module:
    def score(x: Tensor, w: Tensor, b: Tensor, p: Tensor, v: Tensor) -> Tensor:
        h = (x.mm(w) - b).unflatten(1, (4, 2)).max(2)[0]
        h = torch.maximum(h, p) / v.exp()
        return torch.stack([h, -h], 2).permute(0, 2, 1).flip(1)[:, 0, 1:].sum(1, keepdim=True)

    return Lambda(score, (6, 8), (8,), (4,), (4,))


def in_place() -> nn.Module:
    def score(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
        h = x @ w.t()
        h += b
        h = F.leaky_relu_(h.mul_(0.7), 0.3)
        return (torch.where(h > 1, h, 0.5 * h) @ v).squeeze(-1)

    return Lambda(score, (8, 6), (8,), (8, 1))


def two_inputs(x: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
    first, second = (x["a"], x["b"]) if isinstance(x, dict) else x
    return (F.relu(first @ w) + F.leaky_relu(F.linear(second, v, b))).sum(1)


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    quick: bool
    labels: bool = False


CASES = {
    "r3gan": Case(R3GAN, (3, 3, 8, 8), True),
    "amp": Case(amp, (6, 7), True),
    "stylegan": Case(lambda: StyleGAN(True), (4, 3, 4, 4), False),
    "stylegan_without_statistics": Case(lambda: StyleGAN(False), (4, 3, 4, 4), True),
    "ctgan": Case(ctgan, (4, 12), True),
    "patchgan": Case(lambda: patchgan(False), (3, 3, 10, 10), False),
    "patchgan_pooled": Case(lambda: patchgan(True), (3, 3, 10, 10), True),
    "projection": Case(Projection, (4, 3, 5, 5), True, labels=True),
    "per_position": Case(per_position, (3, 5, 4), True),
    "maxout": Case(maxout, (5, 6), True),
    "in_place": Case(in_place, (5, 6), True),
    "uneven_same": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1)),
        (3, 2, 4, 4),
        True,
    ),
    "circular": Case(
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.PReLU(), nn.Flatten(), nn.Linear(24, 1)
        ),
        (3, 2, 6),
        True,
    ),
}


def build_any(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, tuple[Any, ...], bool]:
    """(critic, x, further arguments of the critic, whether one pass serves it), of either collection."""
    if name in ZOO:
        return *build(name, dtype), name in QUICK_OF_THE_ZOO
    case = CASES[name]
    torch.manual_seed(0)
    args = (torch.randint(5, case.shape[:1]),) if case.labels else ()
    return case.make().to(dtype), torch.randn(case.shape, dtype=dtype), args, case.quick


ALL = [*ZOO, *CASES]


# ------------------------------------------------------------------------------------------------- to be refused


def hooked(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    h = x @ w
    h.register_hook(lambda g: 0.5 * g)
    return F.relu(h) @ v


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


REFUSED: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], list[tuple[int, ...]]]] = {
    "a transposed batch as wide as it is long": (lambda x, w, v: F.relu(x @ w).t() @ v, (5, 6), [(6, 5), (5, 1)]),
    "a view that merges samples": (
        lambda x, w, v: (F.relu(x.reshape(len(x) // 2, -1) @ w)).view(len(x), -1) @ v,
        (4, 6),
        [(12, 12), (6, 1)],
    ),
    "the batch centred": (lambda x, w, v: F.relu((x - x.mean(0)) @ w) @ v, (5, 6), [(6, 4), (4, 1)]),
    "samples reversed": (lambda x, w, v: F.relu(x @ w) @ v + x.flip(0) @ w @ v, (5, 6), [(6, 4), (4, 1)]),
    "a sum over samples": (lambda x, w, v: F.relu(x @ w) @ v + x.sum(), (5, 6), [(6, 4), (4, 1)]),
    "samples sorted": (lambda x, w, v: F.relu(x @ w).sort(0)[0] @ v, (5, 6), [(6, 4), (4, 1)]),
    "samples mixed by a constant matrix": (
        lambda x, w, v: torch.full((5, 5), 0.2, dtype=x.dtype) @ F.relu(x @ w) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "neighbours subtracted": (lambda x, w, v: F.relu((x - x.roll(1, 0)) @ w) @ v, (5, 6), [(6, 4), (4, 1)]),
    "the batch padded and cut": (
        lambda x, w, v: F.relu(F.pad(x, (0, 0, 1, 0))[:-1] @ w) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a weight in a linear layer and as a power": (
        lambda x, w, v: F.relu(F.linear(x, w.t())) @ v + (x @ w).square() @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a weight that depends on x": (
        lambda x, w, v: F.relu(F.linear(x, (w * x.mean()).t())) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a bias that depends on x": (lambda x, w, v: F.relu(x @ w + x.tanh().mean()) @ v, (5, 6), [(6, 4), (4, 1)]),
    "features multiplied": (lambda x, w, v: (F.relu(x @ w) * (x @ w)) @ v, (5, 6), [(6, 4), (4, 1)]),
    "a quotient of features": (lambda x, w, v: (x @ w / (2 + (x @ w).abs())) @ v, (5, 6), [(6, 4), (4, 1)]),
    "a smooth activation": (lambda x, w, v: torch.tanh(x @ w) @ v, (5, 6), [(6, 4), (4, 1)]),
    "a hook in between": (hooked, (5, 6), [(6, 4), (4, 1)]),
    "a node looked at": (lambda x, w, v: ((x @ w).relu() @ v, (x @ w).grad_fn)[0], (5, 6), [(6, 4), (4, 1)]),
    "a Function of somebody else's": (
        lambda x, w, v: F.relu(Custom.apply(x @ w)) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a checkpointed segment": (
        lambda x, w, v: checkpoint(lambda z: F.relu(z @ w), x, use_reentrant=False) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a score map": (lambda x, w, v: F.relu(x @ w) @ v, (5, 6), [(6, 4), (4, 2)]),
    "a change in place that no rule knows": (
        lambda x, w, v: (lambda h: (h.pow_(2), h)[1])(x @ w + 1) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a row overwritten": (
        lambda x, w, v: (lambda h: (h.__setitem__(0, h[1] * 2), h)[1])(F.relu(x @ w) * 1) @ v,
        (5, 6),
        [(6, 4), (4, 1)],
    ),
    "a transform": (lambda x, w, v: torch.func.vmap(lambda z: F.relu(z @ w) @ v)(x), (5, 6), [(6, 4), (4, 1)]),
}

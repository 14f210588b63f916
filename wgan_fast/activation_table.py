"""The smooth activations whose double backward is one kernel: names, and the numbers that each takes."""

from __future__ import annotations

from collections.abc import Sequence

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "silu": (),
    "gelu": (),
    "gelu_tanh": (),
    "elu": ("alpha", "scale", "input_scale"),
    "elu_result": ("alpha", "scale", "input_scale"),
    "softplus": ("beta", "threshold"),
    "tanh_result": (),
    "sigmoid_result": (),
    "mish": (),
    "hardswish": (),
    "softsign": (),
    "logsigmoid": (),
}
"""Names in the order of the codes in ``csrc/activation_rules.h``. Those that end in ``_result`` take the output."""

ACTIVATION_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}


def three_numbers(options: Sequence[float]) -> tuple[float, float, float]:
    """The options as every kernel takes them, absent ones as 0."""
    a, b, c = (*options, 0.0, 0.0, 0.0)[:3]
    return float(a), float(b), float(c)

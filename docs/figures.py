"""Draws docs/images/short-cut.png and one-pass.png: ``python docs/figures.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

IMAGES = Path(__file__).parent / "images"
TEAL, GRAY = "#00796b", "#b0b7b6"

Step = tuple[str, str, bool]  # name, formula, whether it remains


def draw(name: str, title: str, groups: list[tuple[str, list[Step]]], note: str) -> None:
    figure, axes = plt.subplots(len(groups), 1, figsize=(8.6, 1.75 * len(groups) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for axis, (label, steps) in zip(axes, groups, strict=True):
        row(axis, label, steps)
    figure.text(0.5, -0.03, note, ha="center", va="top", fontsize=9, color="#444444")
    figure.savefig(IMAGES / f"{name}.png", dpi=160, bbox_inches="tight", facecolor="white")


def row(axis: Axes, label: str, steps: list[Step]) -> None:
    axis.set_xlim(0, 6)
    axis.set_ylim(-0.1, 1.35)
    axis.axis("off")
    axis.text(0, 1.2, label, fontsize=10, weight="bold", va="center")
    for i, (name, formula, remains) in enumerate(steps):
        axis.add_patch(
            plt.Rectangle((i + 0.03, 0), 0.94, 1.0, color=TEAL if remains else GRAY, alpha=1.0 if remains else 0.55)
        )
        color = "white" if remains else "#333333"
        axis.text(i + 0.5, 0.66, name, ha="center", va="center", fontsize=8.2, color=color)
        axis.text(i + 0.5, 0.28, formula, ha="center", va="center", fontsize=8.6, color=color)


def main() -> None:
    forward, signal = ("forward", "$z = Wa + b$", True), ("input gradient", "$\\delta = W^T \\delta'$", True)
    tangent, weight = ("tangent", "$t = m \\circ W t'$", True), ("weight gradient", "$\\delta \\otimes t$", True)
    draw(
        "short-cut",
        "A penalty at its own points: one box is one product per layer",
        [
            (
                "autograd",
                [
                    forward,
                    signal,
                    tangent,
                    weight,
                    ("backward of zeros", "$W^T 0$", False),
                    ("their gradient", "$0 \\otimes a$", False),
                ],
            ),
            ("short cut", [forward, signal, tangent, weight]),
        ],
        "The second derivative of a ReLU is zero: autograd carries tensors of zeros through the critic once more.",
    )
    draw(
        "one-pass",
        "Loss and penalty at the same samples",
        [
            (
                "autograd",
                [
                    forward,
                    signal,
                    tangent,
                    ("penalty's gradient", "$\\delta \\otimes t$", True),
                    ("loss's signal", "$c\\,\\delta = W^T c\\,\\delta'$", False),
                    ("loss's gradient", "$c\\,\\delta \\otimes a$", False),
                ],
            ),
            ("one pass", [forward, signal, tangent, ("both gradients", "$\\delta \\otimes (t + c\\,a)$", True)]),
        ],
        "The loss's backward signal is the penalty's, times one number per sample: c = ∂loss/∂score.",
    )


if __name__ == "__main__":
    main()

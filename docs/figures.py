"""Draws docs/images/shortcut.svg and one-pass.svg: ``python docs/figures.py``.

The colours are legible on a light and on a dark page; nothing has a background of its own.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

IMAGES = Path(__file__).parent / "images"
TEAL, GRAY = "#00796b", "#7d8786"
WIDTH, HEIGHT, GAP, TOP, ROW = 138, 74, 8, 40, 122


class Product(NamedTuple):
    """One kind of matrix work: a product per layer over the batch."""

    name: str
    formula: str
    direction: str  # through the critic: to its score, to its input, or into the weights
    saved: bool = False


class Way(NamedTuple):
    """One way of computing the same numbers: a row of boxes."""

    name: str
    products: list[Product]


FORWARD = Product("forward", "z = W a + b", "→")
SIGNAL = Product("input gradient", "δ = m ∘ Wᵀ δ′", "←")
TANGENT = Product("tangent", "t = m ∘ W t′", "→")
PENALTY = Product("weight gradient", "δ ⊗ t", "↓")

FIGURES = {
    "shortcut": [
        Way(
            "autograd: six products per layer",
            [
                FORWARD,
                SIGNAL,
                TANGENT,
                PENALTY,
                Product("backward of zeros", "m ∘ Wᵀ 0", "←", True),
                Product("their gradient", "0 ⊗ a", "↓", True),
            ],
        ),
        Way("shortcut: four", [FORWARD, SIGNAL, TANGENT, PENALTY]),
    ],
    "one-pass": [
        Way(
            "autograd: six products per layer",
            [
                FORWARD,
                SIGNAL,
                TANGENT,
                PENALTY._replace(name="penalty's gradient"),
                Product("loss's signal", "c δ = m ∘ Wᵀ c δ′", "←", True),
                Product("loss's gradient", "c δ ⊗ a", "↓", True),
            ],
        ),
        Way("one pass: four", [FORWARD, SIGNAL, TANGENT, Product("both gradients", "δ ⊗ (t + c a)", "↓")]),
    ],
}


def draw(ways: list[Way]) -> str:
    """The figure as SVG text."""
    width = 6 * (WIDTH + GAP) - GAP + 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {ROW * len(ways) + 6}" '
        'font-family="system-ui, sans-serif" font-size="13">'
    ]
    for row, (name, products) in enumerate(ways):
        lines.append(text(1, ROW * row + 26, name, GRAY, "start", "bold"))
        for column, product in enumerate(products):
            lines += box(1 + column * (WIDTH + GAP), ROW * row + TOP, product)
    return "\n".join([*lines, "</svg>\n"])


def box(x: int, y: int, product: Product) -> list[str]:
    style = f'fill="none" stroke="{GRAY}" stroke-dasharray="5 4"' if product.saved else f'fill="{TEAL}"'
    color, middle = GRAY if product.saved else "white", x + WIDTH // 2
    return [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" {style}/>',
        text(middle, y + 22, product.name, color),
        text(middle, y + 43, product.formula, color),
        text(middle, y + 64, product.direction, color),
    ]


def text(x: int, y: int, content: str, color: str, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">{escape(content)}</text>'
    )


if __name__ == "__main__":
    for name, ways in FIGURES.items():
        (IMAGES / f"{name}.svg").write_text(draw(ways))

"""A mkdocs hook: "Equivalent to::", as the docstrings have it, shows one colon, as in reStructuredText."""

from __future__ import annotations

from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    return html.replace("::</p>", ":</p>")

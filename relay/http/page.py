"""The page, put together once from its files: one document that asks for nothing else.

Style and script stand inside it and are allowed by their hashes alone, so nothing that gets into
the page by whatever way can run or load. The script writes text and attributes, never markup:
``require-trusted-types-for`` has the browser hold it to that.
"""

import base64
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

_STYLE: Final = "<!-- style -->"
_SCRIPT: Final = "<!-- script -->"


@dataclass(frozen=True, slots=True)
class Page:
    """The document, and the Content-Security-Policy that goes with it."""

    html: str
    policy: str


@cache
def page() -> Page:
    """Return the page. A missing file is a broken install and raises FileNotFoundError."""
    folder = files("relay.http")
    html, style, charts, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "charts.js", "page.js")
    )
    script = f"{charts}\n{script}"
    policy = (
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    whole = html.replace(_STYLE, f"<style>{style}</style>")
    whole = whole.replace(_SCRIPT, f"<script>{script}</script>")
    return Page(whole, "; ".join(policy))


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"

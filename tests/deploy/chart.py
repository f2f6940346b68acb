"""The Helm chart as Helm renders it; ``python -m tests.deploy.chart`` writes the manifest anew."""

import platform
import sys
from pathlib import Path
from typing import Any

import yaml

try:
    import helm_python as helm
except ImportError:
    if sys.platform == "linux" or platform.machine() == "arm64":
        raise
    import pytest

    pytest.skip("Helm's renderer has no wheel for this machine", allow_module_level=True)

FOLDER = Path(__file__).parents[2] / "relay/deploy"
CHART = FOLDER / "chart"
MANIFEST = FOLDER / "kubernetes.yaml"
HEADER = (
    "# Made from chart/ with its default values; change that, then: python -m tests.deploy.chart\n"
)
ALL: dict[str, Any] = {"podMonitor": {"enabled": True}}
"""Values that turn every object on."""


def files(values: dict[str, Any] | None = None) -> list[str]:
    """What each template renders to, but for those that render to nothing."""
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values or {}, name="relay", namespace="default")
    return [text for _, text in sorted(rendered.items()) if text.strip()]


def objects(values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The objects by kind; no kind comes twice."""
    made = [yaml.safe_load(text) for text in files(values)]
    by_kind = {each["kind"]: each for each in made}
    assert len(by_kind) == len(made)
    return by_kind


def manifest() -> str:
    return HEADER + "".join(f"---\n{text.strip()}\n" for text in files())


if __name__ == "__main__":
    MANIFEST.write_text(manifest(), encoding="utf-8")

"""What the image is made of, by its pins; ``python -m tests.deploy.supply FILE`` writes its SBOM.

The SBOM (CycloneDX 1.6) has each package with version, licence, address and what it depends on. It
is made from this environment, which holds the same pins, less what only tests need.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = ROOT / "relay/deploy/constraints.txt"
UNSAID = {"nkeys": "Apache-2.0", "protobuf": "BSD-3-Clause"}
"""Licences that packages have in a file of theirs, and not in their metadata."""
COMMAND = (
    *(sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"),
    *("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", sys.executable),
)


def pins() -> dict[str, str]:
    """The version of each package that is pinned for this machine."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    asked = [Requirement(line.removesuffix("\\")) for line in lines if line[:1].isalnum()]
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in asked
        if each.marker is None or each.marker.evaluate()
    }


def bill() -> dict[str, Any]:
    """The SBOM."""
    made = json.loads(subprocess.run(COMMAND, check=True, capture_output=True, timeout=120).stdout)
    pinned = pins()
    made["components"] = [
        each for each in made["components"] if canonicalize_name(each["name"]) in pinned
    ]
    for each in made["components"]:
        if each["name"] in UNSAID:
            each["licenses"] = [{"license": {"id": UNSAID[each["name"]]}}]
    kept = {made["metadata"]["component"]["bom-ref"]}
    kept |= {each["bom-ref"] for each in made["components"]}
    made["dependencies"] = [
        {**each, "dependsOn": [ref for ref in each.get("dependsOn", ()) if ref in kept]}
        for each in made["dependencies"]
        if each["ref"] in kept
    ]
    return made


def licence(component: dict[str, Any]) -> str:
    """A component's licence, as SPDX writes it."""
    said = [each.get("license", each) for each in component.get("licenses", ())]
    (spdx,) = {each.get("id") or each.get("expression") for each in said} - {None}
    return spdx


if __name__ == "__main__":
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = json.dumps(bill(), indent=2, sort_keys=True) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the SBOM is not as CycloneDX wants it: {fault}")
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")

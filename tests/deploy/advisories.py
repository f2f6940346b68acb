"""Known vulnerabilities in what the image is made of: ``python -m tests.deploy.advisories``.

Exit 1 if there is one, or if pip-audit fails for a reason of its own. Where the service that knows
them can't be asked, it says what was not looked at, and the exit is 0: CI does not depend on it.
Arguments go on to pip-audit: ``--ignore-vuln ID`` for one that does not concern the relay.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from tests.deploy.supply import PINS

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json"),
    *("--progress-spinner", "off", "--requirement", str(PINS)),
)
UNREACHABLE = re.compile(
    r"(?:ConnectionError|ProxyError|SSLError|ConnectTimeout|ReadTimeout|HTTPError)\b"
)
"""How the last line of pip-audit's traceback begins where the network, or the service, is away."""


def ask(arguments: Sequence[str]) -> tuple[int, str]:
    """Ask, and return the exit code and what to say."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        if UNREACHABLE.search(last):
            return 0, f"advisories: NOT LOOKED AT, the service is out of reach: {last[:200]}"
        return 1, f"advisories: pip-audit failed, exit {done.returncode}:\n{done.stderr}"
    unknown = [each["name"] for each in found if "skip_reason" in each]
    holes = [
        f"{each['name']} {each['version']}: {hole['id']}, mended in"
        f" {' or '.join(hole['fix_versions']) or 'no version yet'}"
        for each in found
        for hole in each.get("vulns", ())
    ]
    said = [f"advisories: {len(found) - len(unknown)} packages looked at, {len(holes)} known holes"]
    if unknown:
        said.append(f"NOT LOOKED AT, the service has no answer for: {', '.join(unknown)}")
    return (1 if holes else 0), "\n  ".join([*said, *holes])


if __name__ == "__main__":
    code, text = ask(sys.argv[1:])
    print(text)  # noqa: T201 - a command
    sys.exit(code)

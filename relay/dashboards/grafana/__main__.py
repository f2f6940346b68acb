"""Write the dashboard's file anew, in the source tree, after its code was changed."""

from pathlib import Path

from relay import dashboards
from relay.dashboards.grafana import board

if __name__ == "__main__":
    folder = Path(dashboards.__file__).parent / "files"
    (folder / dashboards.DASHBOARD).write_text(board.text(), encoding="utf-8")

"""Write the dashboards' files anew, in the source tree, after their code was changed."""

from pathlib import Path

from relay import dashboards
from relay.dashboards.grafana import board

if __name__ == "__main__":
    folder = Path(dashboards.__file__).parent / "files"
    made = {dashboards.DASHBOARD: board.board(), dashboards.SQL_DASHBOARD: board.sql_board()}
    for name, each in made.items():
        (folder / name).write_text(board.text(each), encoding="utf-8")

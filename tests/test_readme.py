"""What the READMEs show is what the code does, and what the code has is in them."""

import re
from pathlib import Path

import psycopg
import pytest
import typer
import yaml

from relay.cli import app
from relay.cli.options import INTERRUPTED
from relay.errors import SchemaError, SettingsError
from relay.otel.instruments import INSTRUMENTS
from relay.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READMES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/**/README.md"))]
FOR_TESTS = "RELAY_TEST_"
NOT_SETTINGS = {"RELAY_FAILPOINTS", "RELAY_PG_BIN"}


def read(path: str) -> str:
    return (ROOT / path / "README.md").read_text(encoding="utf-8")


def commands() -> dict[str, list[str]]:
    """Each command of the command line, with its subcommands."""
    group = typer.main.get_command(app)
    found = getattr(group, "commands", {})
    return {name: sorted(getattr(each, "commands", {})) for name, each in found.items()}


def variables() -> set[str]:
    return {variable for variable, *_ in Settings.table()}


def test_the_settings_table_is_the_model_s_own() -> None:
    rows = re.findall(
        r"^\| `(RELAY_\w+)` \| `(--[\w-]+)` \| (.*?) \| (.*?) \|$",
        read("relay/settings"),
        re.MULTILINE,
    )
    expected = [
        (variable, flag, f"`{default}`" if default else "", description)
        for variable, flag, default, description in Settings.table()
    ]
    assert rows == expected


def test_the_metrics_table_is_the_instruments_own() -> None:
    rows = re.findall(
        r"^\| `([a-z._]+)` \| (counter|gauge|histogram) \| `(.+?)` \| (.*?) \| (.*?) \|$",
        read("relay/otel"),
        re.MULTILINE,
    )
    assert rows == [
        (each.name, each.kind, each.unit, " ".join(f"`{a}`" for a in each.attributes), each.help)
        for each in INSTRUMENTS
    ]


def test_the_alerts_table_names_every_alert_with_its_severity() -> None:
    rules = yaml.safe_load((ROOT / "relay/dashboards/files/prometheus-alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    rows = re.findall(
        r"^\| \[`(Relay\w+)`\]\(#\w+\) \| (\w+) \|", read("relay/dashboards"), re.MULTILINE
    )
    assert sorted(rows) == sorted((r["alert"], r["labels"]["severity"]) for r in alerts)


def test_the_commands_table_names_every_command() -> None:
    rows = re.findall(r"^\| (`relay \w.*?) \| .* \|$", README, re.MULTILINE)
    named = {}
    for row in rows:
        first, *others = re.findall(r"`([\w ]+)`", row)
        _, name, *sub = first.split()
        named[name] = sorted([*sub, *others])
    assert named == commands()


def test_the_exit_codes_are_the_errors_own() -> None:
    assert f"{SettingsError.exit_code} usage or settings" in README
    assert f"{SchemaError.exit_code} the schema or the stream is not as" in README
    assert f"{INTERRUPTED} interrupted" in README


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_readme_speaks_of_nothing_that_is_not_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    known = variables() | NOT_SETTINGS
    named = {word.removesuffix("_FILE") for word in re.findall(r"\bRELAY_[A-Z_]*[A-Z]\b", text)}
    assert {word for word in named if not word.startswith(FOR_TESTS)} - known == set()
    called = re.findall(r"^ +(?:python -m )?relay ([a-z]+)(?: ([a-z]+))?", text, re.MULTILINE)
    known_commands = commands()
    for command, sub in called:
        assert command in known_commands
        assert not sub or not known_commands[command] or sub in known_commands[command]


def test_the_columns_of_a_producer_are_the_ones_that_it_may_write_and_read(outbox_dsn: str) -> None:
    (row,) = re.findall(r"^\| in `relay_producer` \| (.*) \|$", read("sql"), re.MULTILINE)
    written, _, read_back = row.partition("read back")
    granted = """select column_name from information_schema.column_privileges
        where grantee = 'relay_producer' and table_schema = 'relay' and table_name = 'outbox'
          and privilege_type = %s"""
    with psycopg.connect(outbox_dsn) as connection:
        may = {
            kind: {name for (name,) in connection.execute(granted, (kind,)).fetchall()}
            for kind in ("INSERT", "SELECT")
        }
    assert set(re.findall(r"`(\w+)`", written.partition("columns")[2])) == may["INSERT"]
    assert set(re.findall(r"`(\w+)`", read_back.partition("(")[0])) == may["SELECT"]


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_a_readme_names_is_there(path: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:md|pml|py|sql))`", path.read_text("utf-8"))
    starts = (ROOT, ROOT / "relay", ROOT / "tests", path.parent)
    assert [name for name in named if not any((each / name).exists() for each in starts)] == []


def test_the_steps_for_systemd_make_every_file_that_the_unit_reads() -> None:
    unit = (ROOT / "relay/deploy/relay.service").read_text(encoding="utf-8")
    read_by_unit = re.findall(r"^(?:EnvironmentFile=|LoadCredential=.*:)(\S+)", unit, re.MULTILINE)
    assert len(read_by_unit) == 3
    for name in read_by_unit:
        assert re.search(rf"^    install -m 0600 .*{name}\b", read("relay/deploy"), re.MULTILINE)


def test_the_examples_of_emitting_run_as_they_stand(outbox_dsn: str) -> None:
    (sql,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute(sql.encode())
        written = connection.execute(
            "select subject, key, idempotency_key, payload is null from relay.outbox order by id"
        ).fetchall()
    assert written == [
        ("orders.placed", "order-7", "order-7-placed", False),
        ("orders.placed", "order-7", None, True),
        ("orders.paid", "order-7", None, False),
    ]


def test_the_unit_restarts_nothing_that_a_person_has_to_change() -> None:
    unit = (ROOT / "relay/deploy/relay.service").read_text(encoding="utf-8")
    codes = {SettingsError.exit_code, SchemaError.exit_code}
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert {int(code) for code in line.split()} == codes
    named = re.findall(r"(RELAY_\w+?)(?:_FILE)?=", unit)
    assert named
    assert set(named) <= variables()


def test_the_paths_that_are_served_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| `(/\w*)` \|", read("relay/http"), re.MULTILINE)
    assert rows == ["/", "/livez", "/readyz", "/metrics"]


def test_the_map_names_every_room_and_only_what_there_is() -> None:
    text = read("relay")
    rows = re.findall(r"^\| (`[^|]*) \|", text.partition("## How one")[0], re.MULTILINE)
    rooms = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    there = {
        each.name
        for each in (ROOT / "relay").iterdir()
        if (each.is_dir() and each.name != "__pycache__")
        or (each.suffix == ".py" and not each.name.startswith("__"))
    }
    assert rooms == there
    where = text.partition("## Where to find")[2]
    for path in re.findall(r"`([^`]+)`", where):
        assert (ROOT / path).exists(), path

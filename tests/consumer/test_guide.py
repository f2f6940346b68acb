"""The guide to the inbox names what there is, and its SQL runs as it stands."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import psycopg

from relay.consumer import Options
from relay.core import durations

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "relay/consumer/README.md").read_text(encoding="utf-8")


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \| .* \|$", GUIDE, re.MULTILINE)
    given = dict[str, str]()
    for names, defaults in rows:
        given |= zip(re.findall(r"\w+", names), defaults.split(", "), strict=True)
    seconds = {"1 day": 86_400.0}
    for option in fields(Options):
        said = given.pop(option.name)
        if isinstance(option.default, bool | str):
            assert said == (str(option.default) or "none")
        elif isinstance(option.default, float):
            assert seconds.get(said) or durations.parse(said) == option.default, option.name
        elif option.name != "subjects":
            assert int(said) == option.default
    assert given == {}


def test_every_metric_is_named() -> None:
    code = (ROOT / "relay/consumer/calling.py").read_text(encoding="utf-8")
    made = set(re.findall(r'create_\w+\("([a-z._]+)"', code))
    assert made
    assert made == set(re.findall(r"`((?:messaging|relay)\.[a-z.]+)`", GUIDE)) & made
    assert {name for name in made if name not in code.partition('"""\n')[0]} == set()


def test_the_python_is_python_and_the_sql_runs(inbox_dsn: str) -> None:
    (python,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    compile(python, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    _, sql = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
    (prune,) = re.findall(r"`(select relay\.inbox_prune.*?)`", GUIDE, re.DOTALL)
    with psycopg.connect(inbox_dsn, autocommit=True) as connection:
        connection.execute(sql.encode())
        taken = connection.execute("select count(*) from relay.inbox").fetchone()
        assert taken == (1,)
        assert connection.execute(prune.encode()).fetchone() == (0,)

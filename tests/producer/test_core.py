"""What becomes of values before they are sent; what a producer's process imports."""

import dataclasses
import enum
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest

from relay.producer import Event, JsonText, core

FACES = ("psycopg", "sqlalchemy", "asyncpg", "django")
FORBIDDEN = (
    *("opentelemetry.sdk", "opentelemetry.exporter", "starlette", "uvicorn", "typer", "rich"),
    *(
        "nats",
        "anyio",
        "pydantic",
        "relay.app",
        "relay.engine",
        "relay.postgres",
        "relay.jetstream",
    ),
    *("relay.settings", "relay.cli", "relay.otel"),
)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    article: UUID
    price: Decimal


class Order(pydantic.BaseModel):
    number: int
    placed_at: datetime
    lines: list[Line] = []
    note: str = pydantic.Field(default="", serialization_alias="remark")


@pydantic.dataclasses.dataclass
class Parcel:
    weight: Decimal


NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ARTICLE = UUID(int=7)
LINE = f'{{"article":"{ARTICLE}","price":"1.10"}}'


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"n": 1, "ü": None}, '{"n":1,"ü":null}'),
        ([1, 2.5, True], "[1,2.5,true]"),
        (17, "17"),
        (False, "false"),
        (JsonText(' {"n": 1.0}'), ' {"n": 1.0}'),
        ([NOON, date(2026, 5, 4)], '["2026-05-04T12:00:00+00:00","2026-05-04"]'),
        ({"id": ARTICLE, "sum": Decimal("9.90")}, f'{{"id":"{ARTICLE}","sum":"9.90"}}'),
        ({"colour": Colour.RED}, '{"colour":"red"}'),
        (Line(ARTICLE, Decimal("1.10")), LINE),
        ([Line(ARTICLE, Decimal(1))], f'[{{"article":"{ARTICLE}","price":"1"}}]'),
        (Parcel(Decimal("1.5")), '{"weight":"1.5"}'),
        (
            Order(number=7, placed_at=NOON, lines=[Line(ARTICLE, Decimal("1.10"))]),
            f'{{"number":7,"placed_at":"2026-05-04T12:00:00Z","lines":[{LINE}],"note":""}}',
        ),
        ({"order": Order(number=7, placed_at=NOON)},
         '{"order":{"number":7,"placed_at":"2026-05-04T12:00:00Z","lines":[],"note":""}}'),
    ],
)  # fmt: skip
def test_a_payload_becomes_the_json_that_one_expects(payload: object, text: str) -> None:
    assert core.one(Event("a.b", payload)) == ("emit", ("a.b", text, *[None] * 4))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("a.b", '{"n": 1}'), r"payload is a str, .* JsonText"),
        (Event("a.b", {1, 2}), "payload holds a set"),
        (Event("a.b", {"x": [object()]}), "payload holds a object"),
        (Event("a.b", 1, key=17), r"key is 17, a int: write key=str"),  # type: ignore[arg-type]
        (Event("a.b", 1, idempotency_key=ARTICLE), "idempotency_key is UUID"),  # type: ignore[arg-type]
        (Event(None, 1), "subject is None, a NoneType: name one"),  # type: ignore[arg-type]
        (Event("a.b", 1, ttl=60), r"ttl is 60, a int: write timedelta\(seconds="),  # type: ignore[arg-type]
        (Event("a.b", 1, headers=[("a", "b")]), "mapping"),  # type: ignore[arg-type]
    ],
)
def test_what_can_t_be_written_is_named_with_the_remedy(event: Event, message: str) -> None:
    for write in (core.one, lambda each: core.many([each])):
        with pytest.raises(TypeError, match=message):
            write(event)


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        core.one(Event("a.b", {"n": float("nan")}))


@pytest.mark.parametrize("schema", ['a"b', "", "Relay", "pg_x", "a'b", "a b", "a:b", "%s"])
def test_a_schema_s_name_is_one_that_the_settings_take(schema: str) -> None:
    with pytest.raises(ValueError, match="no schema name"):
        core.statement("emit", schema, core.POSITIONAL)


@pytest.mark.parametrize("face", ["core", *FACES])
def test_a_producer_imports_nothing_of_the_relay_nor_of_what_it_runs_on(face: str) -> None:
    """OpenTelemetry's API, which is looked for, must not bring its SDK in either."""
    if face in {"sqlalchemy", "asyncpg", "django"}:
        pytest.importorskip(face)
    code = (
        f"import sys, relay.producer.{face}\n"
        "print('\\n'.join(sys.modules))\n"
        "assert 'opentelemetry.propagate' in sys.modules"
    )
    answer: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    loaded = answer.stdout.split()
    found = [name for name in loaded for each in FORBIDDEN if f"{name}.".startswith(f"{each}.")]
    assert found == []
    assert ("psycopg" in loaded) is (face == "psycopg")


@pytest.mark.parametrize(
    ("first", "variables", "warning"),
    [
        ("sys.modules['opentelemetry'] = None", {}, ""),
        ("", {"OTEL_PROPAGATORS": "nonsense"}, "events go without trace context"),
    ],
)
def test_without_opentelemetry_it_works_all_the_same(
    first: str, variables: dict[str, str], warning: str
) -> None:
    code = (
        f"import sys\n{first}\nfrom relay.producer import Event, core\n"
        "print(core.one(Event('a.b', 1, headers={'a': 'b'})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stdout == "('emit', ('a.b', '1', None, '{\"a\": \"b\"}', None, None))\n", (
        answer.stderr
    )
    assert warning in answer.stderr

"""relay/producer/README.md keeps its word: its examples run as they stand."""

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pydantic
import pytest
from psycopg_pool import ConnectionPool

from tests.producer.adapters import django_database, url_of

README = Path(__file__).parents[2] / "relay" / "producer" / "README.md"


def example(framework: str) -> str:
    """The README's code for one framework."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (code,) = [code for code in blocks if code.startswith(f"from relay.producer.{framework} ")]
    return str(code)


@pytest.fixture
def shop(one_dsn: str) -> str:
    with psycopg.connect(one_dsn, autocommit=True) as connection:
        connection.execute("create table orders (id int primary key, state text)")
        connection.execute("insert into orders values (7, 'placed')")
    return one_dsn


def was_paid(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        state = connection.execute("select state from orders").fetchall()
        events = connection.execute("select subject, payload, key from relay.outbox").fetchall()
    assert (state, events) == ([("paid",)], [("orders.paid", {"order": 7}, "order-7")])


def test_psycopg(shop: str) -> None:
    with ConnectionPool(shop, min_size=1, open=True) as pool:
        exec(example("psycopg"), {"pool": pool})
    was_paid(shop)


def test_asyncpg(shop: str) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    names: dict[str, Any] = {}
    exec("async def work(pool):\n" + textwrap.indent(example("asyncpg"), "    "), names)

    async def run() -> None:
        async with asyncpg.create_pool(url_of(shop), min_size=1) as pool:
            await names["work"](pool)

    asyncio.run(run())
    was_paid(shop)


def test_sqlalchemy(shop: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy.orm import registry, sessionmaker

    class OrderPaid(pydantic.BaseModel):
        order: int

    class Order:
        pass

    engine = sqlalchemy.create_engine(url_of(shop, "psycopg"), poolclass=sqlalchemy.NullPool)
    table = sqlalchemy.Table("orders", sqlalchemy.MetaData(), autoload_with=engine)
    mapped = registry()
    mapped.map_imperatively(Order, table)
    exec(
        example("sqlalchemy"),
        {"Session": sessionmaker(engine), "Order": Order, "OrderPaid": OrderPaid},
    )
    mapped.dispose()
    was_paid(shop)


def test_django(shop: str) -> None:
    with django_database(shop, "default"):
        from django.db import models, transaction

        class Order(models.Model):  # noqa: DJ008
            id = models.IntegerField(primary_key=True)
            state = models.TextField()

            class Meta:
                app_label = "relay_outbox"
                managed = False
                db_table = "orders"

        exec(example("django"), {"Order": Order, "transaction": transaction})
    was_paid(shop)

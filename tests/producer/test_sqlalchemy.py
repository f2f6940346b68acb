"""SQLAlchemy: sessions of every kind, a model mapped on the outbox, and Alembic beside it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from relay.postgres.sqlfiles import folder
from relay.producer import Event, NoTransaction, SchemaError
from tests.producer.adapters import url_of

sqlalchemy = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")

README = (Path(str(folder())) / "README.md").read_text(encoding="utf-8")


def recipe(beginning: str) -> str:
    """The README's Python that begins so."""
    (code,) = re.findall(rf"^```python\n({beginning}.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(code)


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, one_dsn: str) -> Iterator[Any]:
    pytest.importorskip(request.param)
    made = sqlalchemy.create_engine(url_of(one_dsn, request.param))
    yield made
    made.dispose()


def rows(dsn: str, columns: str = "subject, payload::text, payload_bytes") -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        statement = f"select {columns} from relay.outbox order by id"
        return connection.execute(statement.encode()).fetchall()


def test_a_scoped_session_and_a_savepoint(engine: Any, one_dsn: str) -> None:
    from relay.producer.sqlalchemy import emit

    session = orm.scoped_session(orm.sessionmaker(engine))
    emit(session, "a.b", 1)
    with session.begin_nested() as savepoint:
        emit(session, "a.b", 2)
        savepoint.rollback()
    assert rows(one_dsn) == []
    session.commit()
    session.remove()
    assert rows(one_dsn) == [("a.b", "1", None)]


@pytest.mark.parametrize("level", [{"isolation_level": "AUTOCOMMIT"}])
def test_an_engine_that_commits_each_statement_is_refused(one_dsn: str, level: Any) -> None:
    """R-PHANTOM"""
    from relay.producer.sqlalchemy import aemit, emit, emit_many

    for driver in ("psycopg", "psycopg2"):
        pytest.importorskip(driver)
        engine = sqlalchemy.create_engine(url_of(one_dsn, driver), **level)
        with engine.begin() as connection:
            with pytest.raises(NoTransaction, match="AUTOCOMMIT"):
                emit(connection, "a.b", 1)
            with pytest.raises(NoTransaction):
                emit_many(connection, [Event("a.b", 1)])
        engine.dispose()

    async def work(driver: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(url_of(one_dsn, driver), **level)
        async with engine.begin() as connection:
            with pytest.raises(NoTransaction):
                await aemit(connection, "a.b", 1)
        await engine.dispose()

    for driver in ("psycopg", "asyncpg"):
        pytest.importorskip(driver)
        asyncio.run(work(driver))
    assert rows(one_dsn) == []


def test_an_engine_and_another_database_are_refused(engine: Any) -> None:
    from relay.producer.sqlalchemy import aemit, emit

    with pytest.raises(TypeError, match="Engine is given"):
        emit(engine, "a.b", 1)
    lite = sqlalchemy.create_engine("sqlite://")
    with lite.begin() as connection, pytest.raises(SchemaError, match="this is sqlite"):
        emit(connection, "a.b", 1)
    lite.dispose()

    async def work() -> None:
        with orm.Session(engine) as session, pytest.raises(TypeError, match="Session is given"):
            await aemit(session, "a.b", 1)

    asyncio.run(work())


@pytest.fixture
def model() -> Any:
    """The README's model, mapped."""
    names: dict[str, Any] = {"Any": Any}
    imports = (
        "from sqlalchemy import JSON, BigInteger, Identity\n"
        "from sqlalchemy.dialects.postgresql import JSONB\n"
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\n"
        "class Base(DeclarativeBase): pass\n"
    )
    exec(imports + recipe("class OutboxEvent"), names)
    yield names["OutboxEvent"]
    names["Base"].registry.dispose()


def test_the_mapped_model_of_the_readme_as_a_producer(
    engine: Any, one_dsn: str, model: Any
) -> None:
    from sqlalchemy.dialects.postgresql import insert

    with orm.Session(engine) as session, session.begin():
        session.execute(sqlalchemy.text("set local role relay_producer"))
        event = model(subject="a.b", key="k", payload={"n": 1}, headers={"a": "b"})
        session.add(event)
        session.flush()
        assert event.id > 0
        session.add_all(model(subject="a.b", payload={"n": n}) for n in range(2, 5))
        session.add(model(subject="a.b", payload_bytes=b"\x00"))
        session.flush()
        many = [{"subject": "a.b", "payload": {"n": n}} for n in range(5, 8)]
        made = session.scalars(sqlalchemy.insert(model).returning(model.id), many).all()
        session.execute(sqlalchemy.insert(model), many)  # executemany, or insertmanyvalues
        assert made == sorted(made)
        once = insert(model).on_conflict_do_nothing()
        for _ in range(2):
            session.execute(once, [{"subject": "a.b", "payload": 8, "idempotency_key": "i"}])
    written = rows(one_dsn)
    assert [row[1] for row in written if row[1]] == [
        *(f'{{"n": {n}}}' for n in (1, 2, 3, 4, 5, 6, 7, 5, 6, 7)),
        "8",
    ]
    assert written[4] == ("a.b", None, b"\x00")


def test_a_thousand_mapped_rows_keep_their_order(engine: Any, one_dsn: str, model: Any) -> None:
    """R-ORDER: insertmanyvalues sends several statements."""
    with orm.Session(engine) as session, session.begin():
        session.add_all(model(subject="a.b", payload=n, key="k") for n in range(2500))
    assert [int(row[1]) for row in rows(one_dsn)] == list(range(2500))


@pytest.mark.filterwarnings("ignore:Did not recognize type", "ignore:Can't validate argument")
@pytest.mark.parametrize("with_recipe", [True, False])
def test_alembic_proposes_nothing_for_the_outbox(
    one_dsn: str, model: Any, with_recipe: bool
) -> None:
    autogenerate = pytest.importorskip("alembic.autogenerate")
    from alembic.migration import MigrationContext

    configured: dict[str, Any] = {}
    if with_recipe:
        code = recipe("def include_name").replace("context.configure(...", "configure(")
        exec(code.replace("(, ", "("), {"configure": configured.update})
        assert len(configured) == 2
    engine = sqlalchemy.create_engine(url_of(one_dsn, "psycopg"))
    with engine.connect() as connection:
        options = {"include_schemas": True, "compare_type": True, **configured}
        context = MigrationContext.configure(connection, opts=options)
        proposed = autogenerate.compare_metadata(context, model.metadata)
    engine.dispose()
    # Without it Alembic would drop the relay's tables: the recipe is what prevents that.
    assert (proposed == []) is with_recipe

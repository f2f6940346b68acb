"""Every way to emit, behind one face, so that one suite asks all of them.

Each adapter is a context manager: ``with adapter(dsn) as writer`` opens the framework's own block,
which commits at its end, or rolls back what raises. Asyncio's run on a loop in another thread.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from psycopg.conninfo import conninfo_to_dict


@dataclass
class Writer:
    """``execute`` takes a statement without parameters."""

    emit: Callable[..., Any]
    emit_many: Callable[..., Any]
    execute: Callable[[str], Any]


Adapter = Callable[[str], AbstractContextManager[Writer]]


def pg_variables(dsn: str) -> dict[str, str]:
    """Return libpq's variables for what ``dsn`` names."""
    parts = conninfo_to_dict(dsn)
    return {
        "PGHOST": str(parts["host"]),
        "PGPORT": str(parts["port"]),
        "PGUSER": str(parts["user"]),
        "PGPASSWORD": str(parts.get("password", "")),
        "PGDATABASE": str(parts["dbname"]),
    }


def url_of(dsn: str, driver: str = "") -> str:
    parts = conninfo_to_dict(dsn)
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    login = f"{parts['user']}:{parts.get('password', '')}"
    return f"{scheme}://{login}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@contextmanager
def psycopg(dsn: str) -> Iterator[Writer]:
    import psycopg as driver

    from relay.producer.psycopg import emit, emit_many

    with driver.connect(dsn) as connection:
        yield Writer(
            lambda *a, **k: emit(connection, *a, **k),
            lambda *a, **k: emit_many(connection, *a, **k),
            lambda statement: connection.execute(statement.encode()),
        )


@contextmanager
def psycopg_autocommit(dsn: str) -> Iterator[Writer]:
    import psycopg as driver

    from relay.producer.psycopg import emit, emit_many

    with driver.connect(dsn, autocommit=True) as connection, connection.transaction():
        yield Writer(
            lambda *a, **k: emit(connection, *a, **k),
            lambda *a, **k: emit_many(connection, *a, **k),
            lambda statement: connection.execute(statement.encode()),
        )


@asynccontextmanager
async def _psycopg(dsn: str) -> AsyncIterator[Any]:
    import psycopg as driver

    async with await driver.AsyncConnection.connect(dsn) as connection:
        yield connection


def psycopg_async(dsn: str) -> AbstractContextManager[Writer]:
    from relay.producer.psycopg import aemit, aemit_many

    async def execute(connection: Any, statement: str) -> None:
        await connection.execute(statement.encode())

    return _on_a_loop(_psycopg(dsn), aemit, aemit_many, execute)


@contextmanager
def sqlalchemy(dsn: str) -> Iterator[Writer]:
    sqla = pytest.importorskip("sqlalchemy")
    from relay.producer.sqlalchemy import emit, emit_many

    engine = sqla.create_engine(url_of(dsn, "psycopg"), poolclass=sqla.NullPool)
    with engine.begin() as connection:
        yield Writer(
            lambda *a, **k: emit(connection, *a, **k),
            lambda *a, **k: emit_many(connection, *a, **k),
            lambda statement: connection.execute(sqla.text(statement)),
        )


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Writer]:
    sqla = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    from sqlalchemy.orm import Session

    from relay.producer.sqlalchemy import emit, emit_many

    engine = sqla.create_engine(url_of(dsn, "psycopg2"), poolclass=sqla.NullPool)
    with Session(engine) as session, session.begin():
        yield Writer(
            lambda *a, **k: emit(session, *a, **k),
            lambda *a, **k: emit_many(session, *a, **k),
            lambda statement: session.execute(sqla.text(statement)),
        )


@asynccontextmanager
async def _session(dsn: str, driver: str) -> AsyncIterator[Any]:
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(url_of(dsn, driver), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


def _sqlalchemy_async(driver: str) -> Adapter:
    def adapter(dsn: str) -> AbstractContextManager[Writer]:
        sqla = pytest.importorskip("sqlalchemy")
        pytest.importorskip(driver)
        from relay.producer.sqlalchemy import aemit, aemit_many

        async def execute(session: Any, statement: str) -> None:
            await session.execute(sqla.text(statement))

        return _on_a_loop(_session(dsn, driver), aemit, aemit_many, execute)

    return adapter


@asynccontextmanager
async def _asyncpg(dsn: str) -> AsyncIterator[Any]:
    import asyncpg as driver

    async with (
        driver.create_pool(url_of(dsn), min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


def asyncpg(dsn: str) -> AbstractContextManager[Writer]:
    pytest.importorskip("asyncpg")
    from relay.producer.asyncpg import emit, emit_many

    async def execute(connection: Any, statement: str) -> None:
        await connection.execute(statement)

    return _on_a_loop(_asyncpg(dsn), emit, emit_many, execute)


@contextmanager
def django(dsn: str) -> Iterator[Writer]:
    with django_database(dsn) as alias:
        from django.db import connections, transaction

        from relay.producer.django import emit, emit_many

        def execute(statement: str) -> None:
            with connections[alias].cursor() as cursor:
                cursor.execute(statement)

        with transaction.atomic(using=alias):
            yield Writer(
                lambda *a, **k: emit(*a, using=alias, **k),
                lambda *a, **k: emit_many(*a, using=alias, **k),
                execute,
            )


@contextmanager
def django_database(dsn: str, alias: str = "shop") -> Iterator[str]:
    """Set Django up, once, and let the database have the alias."""
    pytest.importorskip("django")
    import django as framework
    from django.conf import settings
    from django.db import connections

    parts = conninfo_to_dict(dsn)
    given = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "PASSWORD": parts.get("password", ""),
        "HOST": parts["host"],
        "PORT": parts["port"],
    }
    if not settings.configured:
        settings.configure(INSTALLED_APPS=["relay.producer.django"], USE_TZ=True)
        framework.setup()
    connections.settings |= connections.configure_settings({"default": {}, alias: given})
    with suppress(AttributeError):
        del connections[alias]  # made of other settings, by an earlier test
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias]


@contextmanager
def _on_a_loop(block: Any, emit: Any, emit_many: Any, execute: Any) -> Iterator[Writer]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(block) as connection,
    ):

        def call(function: Any, *arguments: Any, **keywords: Any) -> Any:
            async def work() -> Any:
                return await function(connection, *arguments, **keywords)

            return portal.call(work)

        yield Writer(
            lambda *a, **k: call(emit, *a, **k),
            lambda *a, **k: call(emit_many, *a, **k),
            lambda statement: call(execute, statement),
        )


ADAPTERS: dict[str, Adapter] = {
    "psycopg": psycopg,
    "psycopg autocommit": psycopg_autocommit,
    "psycopg async": psycopg_async,
    "sqlalchemy psycopg": sqlalchemy,
    "sqlalchemy session psycopg2": sqlalchemy_session,
    "sqlalchemy async psycopg": _sqlalchemy_async("psycopg"),
    "sqlalchemy async asyncpg": _sqlalchemy_async("asyncpg"),
    "asyncpg": asyncpg,
    "django": django,
}

"""Django: atomic blocks, the app's migration and check, bulk_create of a model of one's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay.producer import Event, EventRefused, NoTransaction, SchemaError
from tests.producer.adapters import django_database, pg_variables

pytest.importorskip("django")

TOP = Path(__file__).parents[2]
PROJECT = """
import os, sys
from django.core.management import execute_from_command_line
from django.conf import settings
settings.configure(
    USE_TZ=True, INSTALLED_APPS=["relay.producer.django"], RELAY_SCHEMA=os.environ["SCHEMA"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                           "NAME": os.environ["PGDATABASE"],
                           "OPTIONS": {"connect_timeout": 10, "application_name": "shop"}},
               "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


@pytest.fixture
def alias(one_dsn: str) -> Iterator[str]:
    with django_database(one_dsn) as made:
        yield made


def rows(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select subject, payload::text, payload_bytes from relay.outbox order by id"
        ).fetchall()


def test_an_event_outside_of_atomic_is_refused(alias: str, one_dsn: str) -> None:
    """R-PHANTOM"""
    from relay.producer.django import emit, emit_many

    with pytest.raises(NoTransaction, match=r"with transaction\.atomic"):
        emit("a.b", 1, using=alias)
    with pytest.raises(NoTransaction):
        emit_many([Event("a.b", 1)], using=alias)
    assert rows(one_dsn) == []


def test_an_inner_block_takes_its_events_with_it(alias: str, one_dsn: str) -> None:
    from django.db import transaction

    from relay.producer.django import emit

    with transaction.atomic(using=alias):
        emit("a.b", 1, using=alias)
        with pytest.raises(EventRefused), transaction.atomic(using=alias):
            emit("a.b", 2, using=alias)
            emit("a..b", 3, using=alias)
        emit("a.b", 4, using=alias)
    assert [row[1] for row in rows(one_dsn)] == ["1", "4"]


def test_a_refusal_that_is_caught_within_its_block_is_not_forgotten(
    alias: str, one_dsn: str
) -> None:
    """Postgres has aborted the transaction; nobody may take it for a whole one."""
    from django.db import transaction
    from django.db.transaction import TransactionManagementError

    from relay.producer.django import emit

    with transaction.atomic(using=alias):
        with pytest.raises(EventRefused):
            emit("a..b", 1, using=alias)
        with pytest.raises(TransactionManagementError):
            emit("a.b", 2, using=alias)
    assert rows(one_dsn) == []


def test_another_database_is_refused(alias: str) -> None:
    from django.db import connections

    from relay.producer.django import emit

    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    connections.settings |= connections.configure_settings({"default": {}, "lite": lite})
    with pytest.raises(SchemaError, match="'lite' is sqlite"):
        emit("a.b", 1, using="lite")


def test_bulk_create_of_a_model_of_one_s_own(alias: str, one_dsn: str) -> None:
    from django.db import connections, models, transaction

    class OutboxEvent(models.Model):  # noqa: DJ008
        id = models.BigAutoField(primary_key=True)
        subject = models.TextField()
        key = models.TextField(null=True)  # noqa: DJ001
        payload = models.JSONField(null=True)
        payload_bytes = models.BinaryField(null=True)
        headers = models.JSONField(null=True)
        idempotency_key = models.TextField(null=True)  # noqa: DJ001

        class Meta:
            app_label = "relay_outbox"
            managed = False
            db_table = 'relay"."outbox'

    with transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            cursor.execute("set local role relay_producer")
        made = OutboxEvent.objects.using(alias).bulk_create(
            [
                OutboxEvent(subject="a.b", payload={"n": 1}, headers={"a": "b"}),
                OutboxEvent(subject="a.b", payload_bytes=b"\x00"),
                *(OutboxEvent(subject="a.b", payload=n, key="k") for n in range(500)),
            ],
            ignore_conflicts=False,
            batch_size=100,
        )
        OutboxEvent.objects.using(alias).create(subject="a.b", payload=[2])
    assert made[0].id > 0
    written = rows(one_dsn)
    assert written[:2] == [("a.b", '{"n": 1}', None), ("a.b", None, b"\x00")]
    assert [int(row[1]) for row in written[2:-1]] == list(range(500))


def manage(dsn: str, *arguments: str, schema: str = "relay") -> tuple[int, str]:
    """Run ``manage.py``; return its exit code and what it says."""
    variables = {
        **pg_variables(dsn),
        "SCHEMA": schema,
        "PYTHONPATH": str(TOP),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROJECT, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_manage_py_brings_the_outbox_in_and_says_whether_it_is_there(database: str) -> None:
    code, said = manage(database, "check", "--database", "default", "--database", "lite")
    assert (code, "relay_outbox.W001" in said) == (0, True), said
    code, said = manage(database, "sqlmigrate", "relay_outbox", "0001")
    assert (code, "create table" in said) == (0, True), said
    code, said = manage(database, "migrate")
    assert (code, "relay_outbox.0001_outbox... OK" in said) == (0, True), said
    code, said = manage(database, "showmigrations")
    assert (code, "[X] 0001_outbox" in said) == (0, True), said
    code, said = manage(database, "makemigrations", "--check")
    assert (code, "No changes" in said) == (0, True), said
    code, said = manage(database, "check", "--database", "default")
    assert (code, "W001" in said) == (0, False), said
    assert rows(database) == []
    code, said = manage(database, "migrate", "--database", "lite")
    assert (code, "relay_outbox.0001_outbox... OK" in said) == (0, True), said
    code, said = manage(database, "migrate", "relay_outbox", "zero")
    assert code == 0, said
    assert rows(database) == []  # it is still there


@pytest.mark.slow
def test_a_producer_s_login_leaves_the_outbox_to_its_owner(database: str) -> None:
    assert manage(database, "migrate", schema="shop_events")[0] == 0
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create role shop_web login")
        connection.execute("grant create, usage on schema public to shop_web")
    try:
        dsn = make_conninfo(database, user="shop_web")
        code, said = manage(dsn, "check", "--database", "default", schema="shop_events")
        assert code == 1
        assert 'grant shop_events_producer to "shop_web";' in said
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("drop table public.django_migrations")
            connection.execute("grant shop_events_producer to shop_web")
        code, said = manage(dsn, "migrate", schema="shop_events")
        assert (code, "relay_outbox.0001_outbox... OK" in said) == (0, True), said
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("drop owned by shop_web cascade")
            connection.execute("drop role shop_web")

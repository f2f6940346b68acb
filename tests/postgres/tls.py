"""A Postgres that speaks TLS: Debian's build, with certificates of the test's own."""

import os
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from tests.jetstream.credentials import Certificates


def encrypt(server: devstack.Postgres, certificates: Certificates, leaf: str = "server") -> None:
    """Switch TLS on, with files that the server's own user may read."""
    with psycopg.connect(server.dsn, autocommit=True, sslmode="prefer") as person:
        (data,) = person.execute("show data_directory").fetchone() or ("",)
        for name, source in (
            ("server.pem", f"{leaf}.pem"),
            ("server.key", f"{leaf}.key"),
            ("ca.pem", "ca.pem"),
        ):
            copy = Path(data) / name
            copy.write_bytes((certificates.folder / source).read_bytes())
            copy.chmod(0o600)
            os.chown(copy, Path(data).stat().st_uid, -1)
        try:
            person.execute("alter system set ssl = on")
        except psycopg.errors.InvalidParameterValue as error:
            pytest.skip(f"{error}: Debian's has TLS")
        person.execute("alter system set ssl_cert_file = 'server.pem'")
        person.execute("alter system set ssl_key_file = 'server.key'")
        person.execute("alter system set ssl_ca_file = 'ca.pem'")
        person.execute("select pg_reload_conf()")

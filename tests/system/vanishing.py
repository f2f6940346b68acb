"""A host that can vanish: a network namespace of its own, whose only cable can be pulled.

What runs there loses its network without a word to anybody: no FIN, no RST. Its peers keep their
connections until something of their own tells them. Needs root and `ip` (Linux); where that is not
to be had, the test is skipped and says why.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from relay import devstack

_NUMBERS = itertools.count()


class NoNamespaceError(Exception):
    """No network namespace can be made here; the text says why."""


class Host:
    """The vanishing host. ``address`` is ours, by which it reaches our servers."""

    def __init__(self, name: str, cable: str, address: str, own_address: str) -> None:
        self.address = address
        self.own_address = own_address
        self._name = name
        self._cable = cable

    @property
    def within(self) -> Sequence[str]:
        """What a command has to begin with, to run there; its process id is the command's."""
        return ("ip", "netns", "exec", self._name)

    def vanish(self) -> None:
        """Pull the cable."""
        _ip("-n", self._name, "link", "set", self._cable, "down")

    def come_back(self) -> None:
        """Plug it in again."""
        _ip("-n", self._name, "link", "set", self._cable, "up")

    def admit(self, server: devstack.Postgres) -> None:
        """Let the host log in to a server that listens at ``address``."""
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            (path,) = admin.execute("show hba_file").fetchone() or ("",)
            with Path(path).open("a", encoding="utf-8") as rules:
                rules.write(f"\nhost all all {self.own_address}/32 scram-sha-256\n")
            admin.execute("select pg_reload_conf()")


@contextmanager
def vanishing_host() -> Iterator[Host]:
    """Make a host for the length of the block.

    Raises:
        NoNamespaceError: it can't be made here.
    """
    number = (os.getpid() * 16 + next(_NUMBERS)) % (1 << 14)
    name, ours, cable = f"relay-{number}", f"relay-a{number}", f"relay-b{number}"
    net = f"10.213.{number >> 6}.{(number & 63) << 2}".rsplit(".", 1)
    address, own_address = (f"{net[0]}.{int(net[1]) + last}" for last in (1, 2))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", cable, "netns", name)
        _ip("address", "add", f"{address}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", name, "address", "add", f"{own_address}/30", "dev", cable)
        for device in ("lo", cable):
            _ip("-n", name, "link", "set", device, "up")
        yield Host(name, cable, address, own_address)
    finally:
        with suppress(NoNamespaceError):
            _ip("link", "delete", ours)
        _ip("netns", "delete", name)


@contextmanager
def vanishing_host_or_skip() -> Iterator[Host]:
    """Make a host, or skip the test."""
    with ExitStack() as stack:
        try:
            host = stack.enter_context(vanishing_host())
        except NoNamespaceError as error:
            pytest.skip(f"no host that could vanish: {error}")
        yield host


def _ip(*arguments: str) -> None:
    program = shutil.which("ip") or "/usr/sbin/ip"
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoNamespaceError(str(error)) from error
    if done.returncode:
        raise NoNamespaceError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

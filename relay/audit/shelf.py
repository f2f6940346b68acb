"""Memory that has a bound: what is over it goes to a temporary file.

    Map     the newest in a dict, the others in a table of SQLite's, by key
    Trail   the newest in two dicts, the others appended to a file as (hash, numbers): to look one
            of them up is to read the whole file, which only what is wrong makes necessary

Without a shelf both hold everything in memory. The files have no names: they end with the process.
"""

import marshal
import sqlite3
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, Final, Generic, TypeVar, cast

_V = TypeVar("_V")

_CACHE_KIB: Final = 8192
_CHUNK: Final = 500
_TRAIL_CHUNK: Final = 3 * 8 * 20_000


class Shelf:
    """A temporary file of SQLite's, and one for each trail. Not to be used by two threads."""

    def __init__(self) -> None:
        """Make it; there is no file before something is put there."""
        self.database = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode=off", "synchronous=off", f"cache_size=-{_CACHE_KIB}"):
            self.database.execute(f"pragma {setting}")

        self._files: list[BinaryIO] = []

    def file(self) -> BinaryIO:
        """Make another file, without a name."""
        self._files.append(cast("BinaryIO", tempfile.TemporaryFile()))  # noqa: SIM115 - see close
        return self._files[-1]

    def close(self) -> None:
        """Throw everything away."""
        self.database.close()
        for file in self._files:
            file.close()


class Map(Generic[_V]):
    """Values by key. ``hot`` is the part in memory, and the caller's to read and write.

    What is not in ``hot`` has to be fetched first. Values are tuples of plain values.
    """

    def __init__(
        self, shelf: Shelf | None, name: str, most: int, build: Callable[[Any], _V]
    ) -> None:
        """``build`` makes a value of the plain tuple that the shelf gives back."""
        self.hot: dict[str, _V] = {}
        self._database = None if shelf is None else shelf.database
        self._name = name
        self._most = most
        self._build = build
        self._cold = 0
        if shelf is not None:
            shelf.database.execute(
                f"create table {name} (key text primary key, value blob) without rowid"
            )

    def __len__(self) -> int:
        """Count all of them."""
        return len(self.hot) + self._cold

    @property
    def is_shelved(self) -> bool:
        """Whether not all are in memory."""
        return self._cold > 0

    def put(self, items: Mapping[str, _V]) -> None:
        """Add, or replace what is in memory."""
        self.hot.update(items)
        self.trim()

    def trim(self) -> None:
        """Move the older half to the shelf if there are too many."""
        if self._database is None or len(self.hot) <= self._most:
            return
        old = list(islice(self.hot, len(self.hot) - self._most // 2))
        rows = [(key, marshal.dumps(tuple(cast("Any", self.hot.pop(key))))) for key in old]
        self._database.execute("begin")
        self._database.executemany(f"insert or replace into {self._name} values (?, ?)", rows)
        self._database.execute("commit")
        (self._cold,) = self._database.execute(f"select count(*) from {self._name}").fetchone()

    def fetch(self, keys: Sequence[str]) -> bool:
        """Bring these into memory; say whether every one that was not there is there now."""
        absent = [key for key in dict.fromkeys(keys) if key not in self.hot]
        if not absent:
            return True
        if self._database is None or not self._cold:
            return False
        for first in range(0, len(absent), _CHUNK):
            chunk = absent[first : first + _CHUNK]
            marks = ",".join("?" * len(chunk))
            found = self._database.execute(
                f"delete from {self._name} where key in ({marks}) returning key, value", chunk
            ).fetchall()
            self.hot.update({key: self._build(marshal.loads(value)) for key, value in found})
            self._cold -= len(found)
        return all(key in self.hot for key in absent)

    def drop(self, keys: Sequence[str]) -> None:
        """Forget these."""
        for key in keys:
            if self.hot.pop(key, None) is None and self._database is not None and self._cold:
                done = self._database.execute(f"delete from {self._name} where key = ?", (key,))
                self._cold -= done.rowcount

    def values(self) -> Iterator[_V]:
        """Go through all of them. Nothing may be changed meanwhile."""
        yield from self.hot.values()
        if self._database is not None and self._cold:
            for (value,) in self._database.execute(f"select value from {self._name}"):
                yield self._build(marshal.loads(value))


class Trail(Generic[_V]):
    """What was met, by key; of all but the newest only two numbers are kept, by the key's hash.

    A hash has 64 bits and a secret start: of a billion keys two meet once in forty times.
    """

    def __init__(
        self, shelf: Shelf | None, most: int, numbers: Callable[[_V], tuple[int, int]]
    ) -> None:
        """Hold at most twice ``most`` in memory; ``numbers`` says what is kept of an older one."""
        self.newest: dict[str, _V] = {}  # the caller's to add to
        self._old: dict[str, _V] = {}
        self._most = most
        self._numbers = numbers
        self._file: BinaryIO | None = None if shelf is None else shelf.file()

    def get(self, key: str) -> _V | None:
        """Return what was put under ``key``, if it is one of the newest."""
        found = self.newest.get(key)
        return found if found is not None else self._old.get(key)

    def trim(self) -> None:
        """Move the older generation to the file if there are too many."""
        if self._file is None or len(self.newest) < self._most:
            return
        of = self._numbers
        old = [(hash(key), *of(value)) for key, value in self._old.items()]
        array("q", chain.from_iterable(old)).tofile(self._file)
        self._old, self.newest = self.newest, {}

    def look_up(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return the numbers of those of ``keys`` that were ever put."""
        near = {key: value for key in keys if (value := self.get(key)) is not None}
        found = {key: self._numbers(value) for key, value in near.items()}
        far = {hash(key): key for key in keys if key not in found}
        if self._file is not None and far:
            self._file.seek(0)
            while data := self._file.read(_TRAIL_CHUNK):
                numbers = array("q")
                numbers.frombytes(data)
                hashes = numbers[::3].tolist()
                if not far.keys().isdisjoint(hashes):
                    for place, each in enumerate(hashes):
                        if each in far:
                            found[far[each]] = numbers[3 * place + 1], numbers[3 * place + 2]
        return found

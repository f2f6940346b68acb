"""``relay replay`` as a person or a script meets it: what it takes, says, and refuses."""

import io
import json
import logging
import sys

import psycopg
import pytest

from relay.cli import replay as command
from relay.postgres.replay import Replay
from relay.postgres.selection import Selection
from tests.cli.dead import Run, die

WRITE = "insert into relay.outbox (subject, key, payload) values ('a.b', 'k', '1')"


@pytest.fixture
def three(look: psycopg.Connection) -> None:
    """Two delivered events, and one that is not."""
    look.execute(WRITE)
    look.execute(WRITE)
    look.execute("update relay.cursor set base = pg_current_snapshot()")
    look.execute(WRITE)


@pytest.mark.usefixtures("three")
def test_a_dry_run_says_how_many_which_and_what_is_past_retention(
    relay: Run, look: psycopg.Connection
) -> None:
    look.execute("delete from relay.outbox where id = 1")
    told = relay("replay", "--ids", "1-", "--dry-run")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[:2] == ["1 delivered event to be published again", "ids 2 to 2"]
    assert lines[2].startswith("written 20")
    assert lines[3] == "left out: 1 event not delivered yet"
    assert lines[4].startswith("the outbox holds nothing before id 2, written 20")
    told = relay("replay", "--ids", "2-3", "--dry-run", "--json")
    report = json.loads(told.stdout)
    assert (report["events"], report["first_id"], report["last_id"]) == (1, 2, 2)
    assert (report["waiting"], report["past_retention"], report["dry_run"]) == (1, None, True)
    told = relay("replay", "--message-id", "none", "--message-id", "nor-this", "--dry-run")
    assert "2 of 2 message ids are not in the outbox" in told.stdout
    assert look.execute("select count(*) from relay.replay").fetchone() == (0,)


@pytest.mark.usefixtures("three")
def test_where_nobody_can_answer_nothing_is_done_without_yes(
    relay: Run, look: psycopg.Connection
) -> None:
    told = relay("replay", "--all")
    assert told.exit_code == 2
    assert "relay: nobody is there to be asked: say --yes to replay 2 events" in told.stderr
    assert look.execute("select count(*) from relay.decision").fetchone() == (0,)


def test_a_replay_of_nothing_fails_and_says_what_is_there(
    relay: Run, look: psycopg.Connection
) -> None:
    told = relay("replay", "--all", "--yes")
    assert told.exit_code == 1
    assert "the outbox holds no event" in told.stderr
    assert "relay: nothing to be replayed: no delivered event matches" in told.stderr
    die(look, 1)
    look.execute("update relay.cursor set base = pg_current_snapshot()")
    told = relay("replay", "--all", "--yes")
    assert "left out: 1 parked or dead event, see relay dead list" in told.stderr


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "say whom you mean in one way"),
        (["--all", "--key", "k"], "say whom you mean in one way"),
        (["--all", "--continue", "1"], "say whom you mean in one way"),
        (["--continue", "1", "--same-id"], "goes on as it began"),
        (["--continue", "9223372036854775808"], "less than or equal to 9223372036854775807"),
        (["--continue", "0"], "greater than or equal to 1"),
        (["--ids", "9-1"], "'9-1' is no range of ids"),
        (["--ids", "-"], "'-' is no range of ids"),
        (["--ids", "a"], "'a' is no range of ids"),
        (["--since", "yesterday"], "'yesterday' is no instant"),
        (["--since", "5m"], "has the unit m"),
        (["--subject", "a..b"], "is no subject"),
        (["--all", "--rate", "0"], "'0' is no rate"),
        (["--all", "--rate", "nan"], "'nan' is no rate"),
    ],
)
def test_what_cannot_be_meant_is_named(relay: Run, args: list[str], reason: str) -> None:
    told = relay("replay", *args)
    assert told.exit_code == 2
    assert reason in " ".join(told.stderr.replace("│", " ").split())


def test_a_replay_that_is_not_there_is_named(relay: Run) -> None:
    for number in ("7", "9223372036854775807"):
        told = relay("replay", "--continue", number)
        assert (told.exit_code, told.stderr) == (1, f"relay: there is no replay {number}\n")


@pytest.mark.usefixtures("three")
def test_the_same_ids_need_to_know_the_stream_s_window(relay: Run) -> None:
    told = relay("replay", "--all", "--same-id", "--yes", "--nats-url", "nats://127.0.0.1:1")
    assert told.exit_code == 1
    assert "--same-id has to know the stream's duplicate window" in told.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal, io.StringIO])
def test_progress_is_a_bar_on_a_terminal_alone_and_a_standstill_is_said_on_both(
    stderr: type[io.StringIO],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, clock = stderr(), [0.0]
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(command, "monotonic", lambda: clock[0])
    replay = Replay(
        1, Selection(), same_id=False, base="1:1:", events=10, marked=4, place_first=0, place=0
    )
    replay.left, replay.in_flight, replay.led = 2, 3, False
    with caplog.at_level(logging.WARNING), command._progress(replay) as move:
        move(replay)
        clock[0] = 11.0
        move(replay)
        move(replay)
    assert ("2/10" in out.getvalue()) is (stderr is Terminal)
    assert [record.getMessage() for record in caplog.records] == [
        "3 events handed over, and none of them published for 10s: no relay leads"
    ]

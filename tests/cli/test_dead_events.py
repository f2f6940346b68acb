"""``relay dead list`` and ``show``: what a person at a terminal and a script behind a pipe see."""

import base64
import json

import psycopg

from relay.cli.dead_show import KEPT
from tests.cli.dead import Run, die, live

EVIL = "\x1b[2J[bold red]gone[/]\r\nforged \u202e \x9b31m"


def test_a_list_is_a_table_for_people_and_one_array_for_scripts(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1, 2, error="maximum message size exceeded")
    told = relay("dead", "list")
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["id", "1", "2"]
    assert "maximum message size exceeded (10054)" in told.stdout
    (first, _) = json.loads(relay("dead", "list", "--json").stdout)
    assert first["id"] == 1
    assert (first["state"], first["subject"], first["key"]) == ("dead", "orders.placed", "k")
    assert (first["attempts"], first["error"]) == (10, "maximum message size exceeded")
    assert first["dead_at"].endswith("+00:00")
    assert "payload" not in first


def test_a_code_that_the_error_has_already_is_not_shown_twice(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1, error="stream S: full (JetStream error 10054)")
    look.execute("""update relay.parked set errors = '[{"code": 7, "error": "no (7)"}]'""")
    for args, code in ((["list"], "10054"), (["show", "1"], "(7)")):
        assert relay("dead", *args).stdout.count(code) == 1


def test_an_empty_list_is_no_failure(relay: Run) -> None:
    told = relay("dead", "list")
    assert (told.exit_code, told.stdout) == (0, "no dead events, or none that match\n")
    told = relay("dead", "list", "--json", "--key", "nobody's")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "[]\n", "")


def test_a_list_cut_short_says_so_beside_the_array(relay: Run, look: psycopg.Connection) -> None:
    die(look, *range(1, 103))
    told = relay("dead", "list", "--json")
    assert len(json.loads(told.stdout)) == 100
    assert told.stderr == "100 of 102 shown: see --limit\n"
    assert relay("dead", "list", "--limit", "102").stderr == ""


def test_every_filter_reaches_the_list(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1, key="a", error="Too Large")
    die(look, 2, key="b")
    live(look, 3)
    for flags, expected in [
        (["--key", "a"], [1]),
        (["--subject", "orders.*"], [1, 2]),
        (["--subject", "stock.>"], []),
        (["--error", "too large"], [1]),
        (["--error-regex", "^n.$"], [2]),
        (["--code", "10054"], [1, 2]),
        (["--code", "1"], []),
        (["--older-than", "59min"], [1, 2]),
        (["--newer-than", "59min"], []),
        (["--parked"], [1, 2, 3]),
    ]:
        found = json.loads(relay("dead", "list", "--json", *flags).stdout)
        assert [each["id"] for each in found] == expected, flags


def test_what_others_wrote_cannot_steer_the_terminal(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1, error=EVIL)
    look.execute("update relay.parked set key = %s", (EVIL,))
    # What an owner let in that has put the rules aside.
    look.execute("alter table relay.outbox drop constraint outbox_publishable")
    look.execute("update relay.outbox set headers = jsonb_build_object('h', %s::text)", (EVIL,))
    for args in (["list"], ["list", "--parked"], ["show", "1"]):
        told = relay("dead", *args).stdout
        assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(told)
        assert "\nforged" not in told
        assert r"\x1b[2J[bold red]gone[/]\r\nforged \u202e \x9b31m" in told
    assert json.loads(relay("dead", "list", "--json").stdout)[0]["error"] == EVIL


def test_show_tells_everything(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("""update relay.outbox set headers = '{"traceparent": "00-1"}'""")
    assert relay("dead", "retry", "1", "--by", "anna").exit_code == 0
    (event_id,) = look.execute("select event_id::text from relay.parked").fetchone() or ()
    told = relay("dead", "show", event_id.upper()).stdout
    for part in [
        f"event      1, {event_id}\n",
        "subject    orders.placed\n",
        "key        k\n",
        f"message id relay-{event_id}-1\n",
        "header     traceparent: 00-1\n",
        "error      2026-01-01 00:00:00Z  try 1: the first (7)\n",
        " retry by ",
        " (anna)\n",
        'payload    11 bytes of JSON, laid out\n{\n  "n": 1.50\n}\n',
    ]:
        assert part in told
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert report["message_id"] == f"relay-{event_id}-1"
    assert report["headers"] == {"traceparent": "00-1"}
    assert [error["error"] for error in report["errors"]] == ["the first"]
    assert [decision["action"] for decision in report["decisions"]] == ["retry"]
    assert (report["payload_kind"], report["payload_size"]) == ("json", 11)
    assert (report["payload"], report["payload_base64"]) == ('{"n": 1.50}', None)


def test_show_says_what_the_error_s_code_means_what_the_relay_does_and_what_to_do(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    told = relay("dead", "show", "1").stdout
    for part in [
        "meaning    the message is larger than the stream's max_msg_size, headers included\n",
        "relay      refuses the event: ",
        "remedy     raise max_msg_size and retry the event, or drop it\n",
    ]:
        assert part in told
    explained = json.loads(relay("dead", "show", "1", "--json").stdout)["explained"]
    assert list(explained) == ["meaning", "relay", "remedy"]
    look.execute("update relay.parked set last_code = null")
    assert "remedy" not in relay("dead", "show", "1").stdout
    assert json.loads(relay("dead", "show", "1", "--json").stdout)["explained"] is None


def test_a_payload_of_bytes_is_text_if_it_can_be_and_else_a_dump(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    write = "update relay.outbox set payload = null, payload_bytes = %s"
    look.execute(write, ("grüß\x07 dich\n".encode(),))
    assert "grüß\\x07 dich\n" in relay("dead", "show", "1").stdout
    look.execute(write, (b"\xff\x00AB" * 2000,))
    told = relay("dead", "show", "1").stdout
    assert "00000000  ff 00 41 42 ff" in told
    assert f"{KEPT - 16:08x}  ff" in told
    assert f"… and {8000 - KEPT} bytes more: --full shows them\n" in told
    assert f"{8000 - 16:08x}  ff" in relay("dead", "show", "1", "--full").stdout
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert report["payload"] is None
    assert base64.b64decode(report["payload_base64"]) == b"\xff\x00AB" * 2000


def test_a_long_text_is_cut_between_characters(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("update relay.outbox set payload = to_json(%s::text)", ("é" * 3000,))
    told = relay("dead", "show", "1").stdout
    assert "é" * ((KEPT - 1) // 2) + "\n" in told
    assert told.endswith(f"… and {6002 - KEPT} bytes more: --full shows them\n")
    assert relay("dead", "show", "1", "--full").stdout.endswith("é" * 3000 + '"\n')


def test_what_is_not_there_is_told_with_what_became_of_it(
    relay: Run, look: psycopg.Connection
) -> None:
    told = relay("dead", "show", "7")
    assert (told.exit_code, told.stdout, told.stderr) == (1, "", "relay: no parked event 7\n")
    die(look, 7)
    assert relay("dead", "drop", "7", "--yes", "--by", "bob").exit_code == 0
    for args in (["show", "7"], ["retry", "7"], ["drop", "7", "--yes"]):
        told = relay("dead", *args)
        assert told.exit_code == 1
        assert told.stderr.startswith("relay: no parked event 7: dropped by ")
        assert "(bob) at 20" in told.stderr


def test_an_id_of_two_events_asks_for_a_uuid(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("delete from relay.outbox")
    die(look, 1)
    ids = [id_ for (id_,) in look.execute("select event_id::text from relay.parked").fetchall()]
    told = relay("dead", "show", "1")
    assert told.exit_code == 1
    assert f"name one by its UUID, such as {' and '.join(sorted(ids))}" in told.stderr


def test_an_event_whose_row_is_gone_says_so(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("delete from relay.outbox")
    assert "its row in the outbox is gone; no (10054)" in relay("dead", "list").stdout
    told = relay("dead", "show", "1").stdout
    assert "payload    its row in the outbox is gone: nothing can be published" in told
    assert "message id not known" in told
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert (report["is_gone"], report["payload_kind"], report["payload_base64"]) == (
        True,
        None,
        None,
    )


def test_an_error_that_repeats_is_shown_once_with_its_tries(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    look.execute(
        """update relay.parked set errors = (select jsonb_agg(jsonb_build_object(
             'at', '2026-01-01T00:00:0' || n || '.12+00:00', 'attempt', n,
             'error', case when n < 4 then 'full' else 'gone' end, 'code', 7) order by n)
           from generate_series(1, 4) as n)"""
    )
    lines = [each for each in relay("dead", "show", "1").stdout.splitlines() if "error" in each]
    assert lines == [
        "error      2026-01-01 00:00:01Z to 2026-01-01 00:00:03Z  3 tries, 1 to 3: full (7)",
        "error      2026-01-01 00:00:04Z  try 4: gone (7)",
    ]

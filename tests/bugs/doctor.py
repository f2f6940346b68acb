"""Bugs of the doctor."""

from tests.bugs.bug import Bug

SERVERS = "tests/doctor/test_doctor_servers.py"
POSTGRES = "tests/doctor/test_doctor_postgres.py"
STREAMS = "tests/doctor/test_doctor_streams.py"
COMMAND = "tests/doctor/test_doctor_command.py"

REPORT = "relay/doctor/report.py"

BUGS = (
    Bug(
        "a server that is frozen costs the doctor one deadline a check",
        REPORT,
        '            gone = "" if answered else check.name\n',
        '            gone = ""\n',
        (SERVERS + "::test_a_server_that_freezes_in_the_middle_is_one_fault",),
    ),
    Bug(
        "one cause makes a fault of every check of the doctor that builds on it",
        REPORT,
        "        elif any(each.state is State.FAULT for each in found):\n"
        "            roots[check.name] = check.name\n",
        "",
        (POSTGRES,),
    ),
    Bug(
        "the doctor waits for a connection as long as the connection string says",
        "relay/doctor/connecting.py",
        "            with anyio.fail_after(CONNECT_WITHIN):\n",
        "            with anyio.fail_after(60):\n",
        (COMMAND + "::test_both_servers_hung_take_no_longer_than_15_s",),
    ),
    Bug(
        "the doctor's message to try publishing is stored",
        "relay/doctor/streams.py",
        "ASK_WITHIN, _EXPECTING_NONE)",
        "ASK_WITHIN)",
        (STREAMS,),
    ),
    Bug(
        "a right that the doctor's login lacks is granted by nothing",
        "sql/queries/verify_rights.sql",
        "            when pg_has_role((select t.oid from team as t), 'usage')\n",
        "            when false\n",
        (POSTGRES,),
    ),
    Bug(
        "the doctor makes the stream that it looks for",
        "relay/doctor/nats.py",
        "            stream_create=False,\n",
        "",
        ("tests/doctor/test_doctor_nats.py",),
    ),
)

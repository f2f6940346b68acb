"""Bugs of the schema and of the Postgres adapter."""

from tests.bugs import bell
from tests.bugs.bug import HANGS, Bug

CONTRACT = "tests/contract/test_postgres.py"
CURSOR = "tests/postgres/test_cursor.py"
PARKED = "tests/postgres/test_parked.py"
READING = "tests/postgres/test_reading.py"
LEASE = "tests/postgres/test_lease.py"
STANDBY = "tests/postgres/test_standby.py"
DUE = "tests/postgres/test_due.py"
STORE = "tests/postgres/test_store.py"
VERIFY = "tests/postgres/test_verify.py"
HOSTS = "tests/postgres/test_hosts.py"
EMIT = "tests/postgres/test_emit.py"
BACKFILL = "tests/postgres/test_adopt_backfill.py"

LOSS = (
    Bug(
        "the cursor forgets who was late to commit",
        "sql/queries/recent.sql",
        "      from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)\n",
        "      from (select 0::text::xid8 as xid where %(base)s::text is null) as straggler\n",
        (CURSOR,),
    ),
    Bug(
        "it reads on behind the last id, not behind the last snapshot",
        "relay/postgres/reading.py",
        "        # Even an empty read moves the position: a base with no transactions in flight"
        " reads faster.\n",
        "        last = getattr(self, 'last', 0)\n"
        "        events = [event for event in events if event.id > last]\n"
        "        self.last = events[-1].id if events else last\n",
        (CURSOR,),
    ),
    Bug(
        "rows of the future are not stamped anew when a term begins",
        "relay/postgres/outbox.py",
        '        if not all_rows and await lease.row(self._query("foreign_rows"), {}) is None:\n',
        "        if not all_rows:\n",
        (READING + "::test_rows_from_the_future_are_read_once_by_the_next_term",),
    ),
    Bug(
        "a parked event is forgotten with its page",
        "relay/postgres/store.py",
        "                await self._parked.write(session, done.parked, done.unparked)\n",
        "                pass\n",
        (CONTRACT,),
    ),
    Bug(
        "a page is settled past an event that could not be kept",
        "relay/postgres/parked.py",
        "            if lost := [each for each in renewed if _name(each) not in kept]:\n",
        "            if lost := [each for each in renewed if not new]:\n",
        (PARKED,),
    ),
    Bug(
        "an event is passed over though another one is parked under its id",
        "relay/postgres/parked.py",
        "        if lost := [each for each in new if _name(each) not in kept]:\n",
        "        if lost := [each for each in new if not kept]:\n",
        (PARKED,),
    ),
    Bug(
        "a parked row whose outbox row is gone is skipped",
        "sql/queries/due.sql",
        "      left join lateral (\n        select o.*\n",
        "      join lateral (\n        select o.*\n",
        (PARKED + "::test_a_reference_whose_row_was_deleted_is_due_and_said_aloud",),
    ),
    Bug(
        "an index that is broken ends the process, though delivery does without it",
        "relay/postgres/pool.py",
        "        except psycopg.Error as error:\n            raise StoreOutage(f",
        "        except ZeroDivisionError as error:\n            raise StoreOutage(f",
        (STORE + "::test_an_error_of_no_outage_s_kind_beside_delivery_is_waited_for",),
    ),
    Bug(
        "one who waits for a session is sent away when the pool is begun anew",
        "relay/postgres/pool.py",
        "            except psycopg_pool.PoolClosed:  # begun anew while",
        "            except ZeroDivisionError:  # begun anew while",
        (
            "tests/postgres/test_pool.py::test_one_who_waits_for_a_session_gets_it_of_the_pool_that_is_begun_anew",
        ),
    ),
    Bug(
        "a closed pool opens again for one who asks it, and is closed by nobody",
        "relay/postgres/pool.py",
        "        if self._is_closed:\n",
        "        if False:\n",
        (
            "tests/postgres/test_pool.py::test_a_pool_that_is_closed_opens_for_nobody_until_it_is_begun_anew",
        ),
    ),
    Bug(
        "a term that ends while it begins is told to nobody",
        "relay/postgres/outbox.py",
        "            if isinstance(error, TermLost):  # it",
        "            if False:  # it",
        (HOSTS + "::test_a_term_whose_reader_reached_another_server_does_not_begin",),
    ),
    Bug(
        "pruning begins from the lowest id in mid-walk",
        "relay/postgres/housekeeping.py",
        "        if not self._walking and self._now()",
        "        if self._now()",
        (STORE + "::test_no_number_of_rows_that_are_kept_stops_retention_behind_them",),
    ),
    Bug(
        "retention deletes what is not settled",
        "sql/queries/prune.sql",
        "            where pg_visible_in_snapshot(c.xid, m.base)\n",
        "            where m.base is not null\n",
        (CONTRACT, STORE),
    ),
    Bug(
        "retention deletes that to which a parked event refers",
        "sql/queries/prune.sql",
        '              and not exists (select from :"schema".parked as p where p.id = c.id)\n',
        "",
        (PARKED + "::test_what_something_parked_refers_to_stays_past_retention",),
    ),
    Bug(
        "a row that can't be read is left out of its page",
        "relay/postgres/reading.py",
        "                reasons[event.id] = reason\n",
        "                del events[number]\n",
        (READING + "::test_a_row_that_cannot_be_read_is_its_own_fate",),
    ),
    Bug(
        "rows that a policy hides are no fault",
        "sql/queries/verify_rights.sql",
        " where row_security_active(f.oid)\n",
        " where row_security_active(f.oid) is null\n",
        (VERIFY,),
    ),
    Bug(
        "an outbox that a subscription fills is led",
        "sql/queries/verify_facts.sql",
        " where r.srrelid = (select o.oid from outbox as o)\n",
        " where r.srrelid = 0\n",
        (VERIFY,),
    ),
    Bug(
        "an old primary is led at, though its successor was seen",
        "relay/postgres/hosts.py",
        "        if timeline < self._highest[cluster]:\n            info",
        "        if timeline < 0:\n            info",
        (HOSTS,),
    ),
    Bug(
        "a term goes on when another host is promoted",
        "relay/postgres/store.py",
        "                tasks.start_soon(self._promotions)\n",
        "",
        (HOSTS,),
    ),
    Bug(
        "a reader at another server is believed",
        "relay/postgres/outbox.py",
        '        if await reader.row(self._query("still_mine"), lease.term) is None:\n',
        "        if reader is None:\n",
        (HOSTS,),
    ),
    Bug(
        "what the parked refer to can be truncated away",
        "sql/functions/refuse_truncate.sql",
        "  if is_referred_to then\n",
        "  if not is_referred_to and is_referred_to then\n",
        ("tests/postgres/test_restore.py",),
    ),
)

ORDER = (
    Bug(
        "what is written during a backfill goes before what was there",
        "relay/postgres/adoption.py",
        'await self._locked(self._file("wait") + self._trigger(f"{table.function}_rows"))',
        'await self._locked(self._file("wait") + self._trigger("outbox"))',
        (BACKFILL + "::test_rows_come_in_order_before_those_that_are_written_meanwhile",),
    ),
    Bug(
        "a backfill does not wait for who commits late",
        "relay/postgres/adoption.py",
        "self._move(min(last, 0), PAGE)",
        "self._move(last, PAGE)",
        (BACKFILL + "::test_who_commits_late_is_not_overtaken_by_its_key",),
    ),
    Bug(
        "a retry overtakes an earlier event of its key",
        "sql/queries/due.sql",
        "   where not h.blocked\n   order by",
        "   order by",
        (CONTRACT,),
    ),
    Bug(
        "a retry does not wait for its own time behind another one of its key",
        "sql/queries/due.sql",
        "     and not r.stopped\n",
        "",
        (CONTRACT,),
    ),
    Bug(
        "a parked event blocks no key",
        "sql/views/fence.sql",
        " where p.key is not null;\n",
        " where p.key is not null and p.dead_at is not null;\n",
        (CONTRACT,),
    ),
    Bug(
        "a sequence that hands out ids in blocks is not refused",
        "sql/queries/verify_facts.sql",
        " where s.seqcache <> 1\n",
        " where s.seqcache < 1\n",
        (VERIFY,),
    ),
)

ONCE = (
    Bug(
        "a person's retry carries the old message id",
        "sql/functions/message_id.sql",
        "    || case when retries > 0 then '-' || retries::text else '' end\n",
        "",
        (CONTRACT, EMIT),
    ),
    Bug(
        "a producer's key may be another event's message id",
        "sql/functions/publishable.sql",
        "             and not pg_catalog.starts_with(idempotency_key, 'relay-'))\n",
        "             )\n",
        (EMIT + "::test_a_key_that_could_be_another_event_s_message_id_is_refused",),
    ),
    Bug(
        "a message id is without its prefix",
        "sql/functions/message_id.sql",
        "return prefix || case\n",
        "return case\n",
        (EMIT, READING),
    ),
)

TERM = (
    Bug(
        "the trust in the lease is counted from the answer",
        "relay/postgres/store.py",
        "        self._proof = asked\n        return found\n",
        "        self._proof = self._now()\n        return found\n",
        (LEASE + "::test_the_trust_is_counted_from_when_the_proof_was_asked_for",),
    ),
    Bug(
        "a lease whose session is seen to be gone is trusted",
        "relay/postgres/store.py",
        "            and not self.session.hung_up()\n        )\n",
        "        )\n",
        (LEASE + "::test_a_lost_session_grants_nothing_even_before_anybody_has_asked",),
    ),
    Bug(
        "an idle leader does not speak",
        "relay/postgres/store.py",
        "            if self._now() >= self._proof + beat or self.session.hung_up():\n",
        "            if self.session.hung_up() and beat:\n",
        (LEASE + "::test_watching_keeps_the_lease_alive_and_young",),
    ),
    Bug(
        "the loss of the reader's session is not noticed",
        "relay/postgres/store.py",
        "            if any(not each.is_waited_for for each in gone):\n",
        "            if others is None:\n",
        (LEASE + "::test_a_session_of_the_term_that_is_lost_ends_it_at_once",),
        HANGS,
    ),
    Bug(
        "the watch ends a read that Postgres is ending",
        "relay/postgres/store.py",
        "            if any(not each.is_waited_for for each in gone):\n",
        "            if gone:\n",
        (LEASE + "::test_a_session_that_is_lost_under_a_statement_is_left_to_it",),
    ),
    Bug(
        "a session of the term that the server closed is noticed by the next beat",
        "relay/postgres/session.py",
        "                poller.register(connection.pgconn.socket, select.EPOLLRDHUP)\n",
        "                assert connection\n",
        (LEASE + "::test_a_session_of_the_term_that_is_lost_ends_it_at_once",),
        HANGS,
    ),
    Bug(
        "the server is not told to end a silent session",
        "relay/postgres/store.py",
        '        "idle_session_timeout": whole,\n',
        '        "idle_session_timeout": "0",\n',
        (LEASE + "::test_a_leader_that_stands_still_loses_the_lease_within_its_lifetime",),
    ),
    Bug(
        "somebody else's lock on the lease has no name",
        "relay/postgres/outbox.py",
        "        if self._foreign_holder:\n            raise LeaseTaken",
        "        if self._foreign_holder is None:\n            raise LeaseTaken",
        (STANDBY + "::test_a_lock_held_by_somebody_who_is_no_relay_is_named",),
    ),
    Bug(
        "a relay that slept through its own death settles",
        "sql/queries/settle.sql",
        "     and c.epoch = %(epoch)s::bigint\n     and c.holder = %(holder)s::text\n",
        "     and %(epoch)s::bigint > 0\n     and %(holder)s::text <> ''\n",
        (CONTRACT, STORE),
    ),
    Bug(
        "a statement waits for ever",
        "relay/postgres/session.py",
        "            with anyio.move_on_after(deadline):\n"
        "                cursor = cursor or self.connection.cursor(binary=True)\n",
        "            with anyio.move_on_after(deadline * 1000):\n"
        "                cursor = cursor or self.connection.cursor(binary=True)\n",
        (STORE + "::test_a_statement_without_an_answer_is_an_outage_within_its_deadline",),
    ),
)

FATE = (
    Bug(
        "those who wait longest for a try do not come first",
        "sql/queries/due.sql",
        "   order by h.next_attempt_at, h.id\n   limit %(limit_rows)s::bigint\n",
        "   order by h.id\n   limit %(limit_rows)s::bigint\n",
        (CONTRACT, DUE),
    ),
    Bug(
        "what is behind a refused event counts for no lag",
        "sql/queries/look.sql",
        "           where p.dead_at is null and p.replay is null\n"
        "           order by p.created_at\n",
        "           where p.dead_at is not null\n           order by p.created_at\n",
        (CONTRACT,),
    ),
    Bug(
        "a row that is refused in a settlement is not named",
        "relay/postgres/store.py",
        "                refused = await self._parked.refused_one(session, done.parked)\n",
        "                refused = await self._parked.refused_one(session, ())\n",
        (PARKED + "::test_an_event_that_the_database_refuses_to_keep_is_named",),
    ),
)

BUGS: tuple[Bug, ...] = LOSS + ORDER + ONCE + TERM + FATE + bell.FIRST

"""Bugs of reconciling with the streams."""

from tests.bugs.bug import HANGS, Bug

RULES = "tests/core/test_checkpoint.py"
ENGINE = "tests/engine/test_reconcile.py"
STREAMS = "tests/jetstream/test_jetstream_reconcile.py"
TAILS = "tests/jetstream/test_jetstream_tails.py"
STORE = "tests/postgres/test_checkpoints.py"

CORE = "relay/core/checkpoint.py"
RECONCILE = "relay/jetstream/reconcile.py"
CHECKPOINTS = "relay/postgres/checkpoints.py"

BUGS: tuple[Bug, ...] = (
    Bug(
        "a stream that is behind and then gone stops all others",
        RECONCILE,
        "            self._behind.pop(stream, None)  # it",
        "            self._behind.pop('', None)  # it",
        (STREAMS + "::test_a_stream_that_is_behind_and_then_gone_waits_alone",),
    ),
    Bug(
        "a row without a payload hides those behind it",
        "sql/queries/page.sql",
        "             else coalesce(octet_length(o.payload_bytes), 0)\n",
        "             else octet_length(o.payload_bytes)\n",
        ("tests/postgres/test_reading.py",),
    ),
    Bug(
        "what is parked in a repair counts as stored",
        "relay/engine/reconcile.py",
        "        stored = [id_ for id_, each in before.items() if each.stored]\n",
        "        stored = list(before)\n",
        (ENGINE + "::test_what_is_parked_in_a_repair_is_still_to_be_sent",),
    ),
    Bug(
        "what was parked before a repair is told as stored",
        "sql/queries/delivered.sql",
        "coalesce(p.again, true) as stored",
        "true as stored",
        (STORE + "::test_what_was_parked_before_a_repair_does_not_count_as_stored",),
    ),
    Bug(
        "a loss is told to nobody if the term ends while it goes back",
        "relay/engine/reconcile.py",
        "            with anyio.CancelScope(shield=True):  # it ends",
        "            with anyio.CancelScope():  # it ends",
        (ENGINE + "::test_a_loss_is_told_though_the_term_ends_while_it_goes_back",),
    ),
    Bug(
        "what was lost has no zero before the first, and its alert stays silent",
        "relay/otel/metrics.py",
        "            self._count(each, 0, always=True)  # alerts",
        "            self._count(each, 0)  # alerts",
        ("tests/otel/test_metrics.py::test_what_was_lost_has_a_zero_before_the_first",),
    ),
    Bug(
        "a loss that is left to a person moves no metric",
        "relay/otel/metrics.py",
        "            case StreamLost(gone=gone, repairing=repairing):\n",
        "            case StreamLost(gone=gone, repairing=_) if (repairing := True):\n",
        ("tests/otel/test_metrics.py::test_what_was_lost_has_a_zero_before_the_first",),
    ),
    Bug(
        "a stream with a lower last sequence than its checkpoint is believed",
        CORE,
        "    if last_seq < tip.seq:\n",
        "    if last_seq < 0:\n",
        (RULES, STREAMS),
    ),
    Bug(
        "another message at the checkpoint's sequence is believed to be ours",
        CORE,
        "    if tip.sure or not found.event_id:\n",
        "    if tip.sure and not found.message_id:\n",
        (RULES,),
    ),
    Bug(
        "a message that a person deleted is taken for a loss",
        CORE,
        "    if not tip.message_id or found is None:\n        return Verdict.NO_EVIDENCE\n",
        "    if found is None:\n        return Verdict.BEHIND\n    if not tip.message_id:\n"
        "        return Verdict.NO_EVIDENCE\n",
        (RULES,),
    ),
    Bug(
        "what a repair has still to publish is deleted by what was settled once",
        "sql/queries/prune.sql",
        "              and pg_visible_in_snapshot(c.xid, m.now_base)\n",
        "",
        (STORE,),
    ),
    Bug(
        "nobody reads what stands behind the checkpoint",
        RECONCILE,
        "        if last_seq <= after:\n            return\n",
        "        if last_seq >= after:\n            return\n",
        (STREAMS,),
    ),
    Bug(
        "a tip forgets where the tail began before all of it was passed over",
        RECONCILE,
        "stream.take_tip(keep_after=stream in self._tails)",
        "stream.take_tip(keep_after=False)",
        (STREAMS,),
    ),
    Bug(
        "a repair publishes again what other streams hold",
        RECONCILE,
        "        before = event.id in self._delivered and route.name not in self._repairing\n",
        "        before = event.id in self._delivered and not route.name\n",
        (STREAMS,),
    ),
    Bug(
        "a copy in a stream that sources the lost one stands in for it",
        RECONCILE,
        "        tail = self._tails.get(route)",
        "        tail = set[int]().union(*self._tails.values())",
        (STREAMS,),
    ),
    Bug(
        "an event that is passed over is called a duplicate",
        RECONCILE,
        "            return Stored(route.name, sent=False)\n",
        "            return Stored(route.name, duplicate=True)\n",
        (STREAMS,),
    ),
    Bug(
        "what is known without asking is counted as sent",
        "relay/otel/telemetry.py",
        "        if not isinstance(outcome, Stored | Held) or outcome.sent\n",
        "",
        ("tests/otel/test_telemetry.py",),
    ),
    Bug(
        "nobody looks at a sequence that did not rise",
        "relay/jetstream/bus.py",
        "        if self._streams.doubts:\n",
        "        if self._streams.doubts and not outcomes:\n",
        (STREAMS,),
    ),
    Bug(
        "a stream that the relay made again is a new one",
        RECONCILE,
        "        if verdict is Verdict.REMADE and info.made_by_relay:\n",
        "        if verdict is Verdict.REMADE and not info.name:\n",
        (STREAMS,),
    ),
    Bug(
        "what the stream contradicts stays a checkpoint",
        CHECKPOINTS,
        "        if each.number > last.number or _order(each.position) > _order(position)\n",
        "        if each.number > last.number and not last.tip.stream\n",
        (STORE,),
    ),
    Bug(
        "a repair goes back to the latest of two places",
        CHECKPOINTS,
        "    back = min(held.values(), key=lambda each: _order(each.position))\n",
        "    back = max(held.values(), key=lambda each: _order(each.position))\n",
        (STORE,),
    ),
    Bug(
        "what left the parked is not lost with its stream",
        "sql/queries/rewind.sql",
        "     and exists (select from back)\n   order by u.event_id, u.unparked_at desc\n",
        "     and not exists (select from back)\n   order by u.event_id, u.unparked_at desc\n",
        (STORE,),
    ),
    Bug(
        "another term's checkpoints are thrown away",
        "sql/queries/rewind.sql",
        "     and k.number = f.number\n     and exists (select from back)\n",
        "     and k.number = f.number\n",
        (STORE,),
    ),
    Bug(
        "the cursor stays where it is though the stream has lost messages",
        "relay/engine/reconcile.py",
        "                for each in await self._checkpoints.rewind(held):\n",
        "                for each in await self._checkpoints.rewind(held) if not held else ():\n",
        (ENGINE,),
        HANGS,
    ),
    Bug(
        "events are published to a stream before its first checkpoint is settled",
        "relay/engine/reconcile.py",
        "            await self._settler.add_and_wait(Done(tips=tips))\n",
        "            self._settler.add(Done(tips=tips))\n",
        (ENGINE,),
    ),
    Bug(
        "a look that failed is made after it was decided what to send",
        "relay/jetstream/bus.py",
        "        routes = await self.reconciling.look_first(routes)\n        call =",
        "        if self.reconciling.active:\n"
        "            routes = await self.reconciling.look_first(routes)\n        call =",
        (TAILS,),
    ),
    Bug(
        "a replica that lags behind is believed to have the stream's end",
        "relay/jetstream/tail.py",
        "            await _read_singly(api, stream, tail, min(end, tail.reached + MOST_SINGLY))\n"
        "            break\n    tail.complete",
        "            break\n    tail.complete",
        (TAILS,),
    ),
    Bug(
        "what has no answer is sent again after the duplicate window",
        "relay/jetstream/bus.py",
        "            stream.unanswered_since = began\n",
        "            stream.unanswered_since = None\n",
        (TAILS,),
    ),
    Bug(
        "a repair is over with its first page",
        "relay/engine/reconcile.py",
        "        over = not page.full\n",
        "        over = bool(page.events)\n",
        (ENGINE,),
    ),
)

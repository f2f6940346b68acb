"""Bugs in an event's fate: refusals, retries, and the ledger of holds."""

from tests.bugs.bug import HANGS, Bug

MODEL = "tests/model"
DELIVERY = "tests/engine/test_delivery.py"
FATE_TESTS = "tests/engine/test_fates.py"
HOLD_TESTS = "tests/engine/test_holds.py"
SEAMS = "tests/engine/test_seams.py"
FATES = "tests/core/test_disposition.py"
MEMORY = "tests/contract/test_memory.py"
DELIVER = "relay/engine/deliver.py"
DISPOSITION = "relay/core/disposition.py"

BUGS = (
    Bug(
        "a key emitted twice in memory makes two events",
        "relay/memory/outbox.py",
        "            if each.message_id == idempotency_key:\n",
        "            if False:\n",
        (MEMORY,),
    ),
    Bug(
        "an outage costs an attempt",
        DISPOSITION,
        "        attempts,\n        pause,\n        held_by=outcome.by,",
        "        attempts + 1,\n        pause,\n        held_by=outcome.by,",
        (MODEL,),
    ),
    Bug(
        "events without a clear answer are never set aside",
        DISPOSITION,
        "PUZZLED_AFTER: Final = 5\n",
        "PUZZLED_AFTER: Final = 1 << 60\n",
        (FATES, MODEL),
    ),
    Bug(
        "an error that nobody knows is asked about without a pause that grows",
        "relay/core/holds.py",
        "        most = PAUSE_PUZZLED_MOST if by.startswith(PUZZLED) else PAUSE_MOST\n",
        "        most = PAUSE_MOST\n",
        (FATE_TESTS + "::test_events_with_an_answer_that_nobody_knows_leave_room_for_the_others",),
    ),
    Bug(
        "a hold ends though no event of it was stored",
        DELIVER,
        '        self._end_holds(tries.freed - tries.held, "an event of it was stored")\n',
        "        if stored:\n"
        '            self._end_holds(self.holds.aside(), "an event of it was stored")\n',
        (MODEL,),
    ),
    Bug(
        "a hold goes on though nothing waits for it",
        DELIVER,
        "self._end_holds(self.holds.only_parked(), ",
        "self._end_holds((), ",
        (MODEL,),
    ),
    Bug(
        "a hold ends while its events wait to be parked",
        "relay/core/order.py",
        "        self._promised = True\n",
        "        self._promised = False\n",
        (SEAMS + "::test_a_hold_lasts_while_its_events_wait_for_their_page_to_be_settled",),
    ),
    Bug(
        "a hold that ended while its events were on their way ends the process",
        "relay/core/holds.py",
        "        return 0.0 if hold is None else max(0.0, hold.closed_until - now)\n",
        "        return max(0.0, hold.closed_until - now)\n",
        (SEAMS + "::test_a_hold_that_is_over_while_its_events_are_on_their_way_is_asked_again",),
    ),
    Bug(
        "pages ask a stream that is set aside",
        DELIVER,
        "            closed = self.holds.aside() - {self._link.bus.sole_hold}\n",
        "            closed = set[str]()\n",
        (HOLD_TESTS + "::test_pages_do_not_ask_a_stream_that_is_set_aside",),
    ),
    Bug(
        "all that is due asks a stream that takes nothing, and not a few",
        DELIVER,
        "min(PROBE, self._batch) if self.holds.askable(now) else AHEAD * self._batch\n",
        "AHEAD * self._batch\n",
        (HOLD_TESTS + "::test_pages_do_not_ask_a_stream_that_is_set_aside",),
    ),
    Bug(
        "the same parked events are tried over and over",
        "relay/memory/parked.py",
        "            (place, self.rows[due.event.event_id].waits_since, due.event.id)\n",
        "            (place, 0.0, due.event.id)\n",
        (MEMORY,),
    ),
    Bug(
        "a single lost connection parks the event that was alone in the call",
        "relay/core/pace.py",
        "CUTS_ALONE: Final = 3\n",
        "CUTS_ALONE: Final = 1\n",
        (MODEL,),
    ),
    Bug(
        "an event that cuts the connection is looked for among all, for ever",
        "relay/core/pace.py",
        "            self._most = sent // 2\n",
        "            self._most = sent\n",
        ("tests/core/test_halving.py",),
        HANGS,
    ),
    Bug(
        "an event that collided is tried again",
        DISPOSITION,
        "    elif outcome.fault is Fault.COLLISION:\n        dead = True\n",
        "    elif outcome.fault is Fault.COLLISION:\n        pass\n",
        (MODEL,),
    ),
    Bug(
        "an event that no stream captures dies at once",
        DISPOSITION,
        "        dead = dead and age >= UNCAPTURED_LEAST\n",
        "        dead = dead and age >= 0\n",
        (MODEL,),
    ),
    Bug(
        "events are parked though nothing can flow past their stream",
        DELIVER,
        "self.holds.lasting(anyio.current_time()) - {self._link.bus.sole_hold}",
        "self.holds.lasting(anyio.current_time())",
        (DELIVERY + "::test_the_only_stream_is_waited_for_with_the_page_in_hand", MODEL),
    ),
    Bug(
        "a full stream's events are refused where another one fits in",
        "relay/core/disposition.py",
        "isinstance(fate, Held) and not fate.code and fate.by == held_by",
        "isinstance(fate, Held) and fate.by == held_by",
        (SEAMS + "::test_a_full_stream_with_room_for_small_events_refuses_none",),
    ),
    Bug(
        "an event that alone gets no answer is tried for ever",
        DELIVER,
        "disposition.is_alone(each.event.subject, each.held_by, fate, self._answered)",
        "disposition.is_alone(each.event.subject, each.held_by, fate, ())",
        (HOLD_TESTS + "::test_an_event_held_alone_while_its_subject_is_stored_is_refused",),
        HANGS,
    ),
    Bug(
        "the streams that were learnt are not recalled",
        "relay/engine/lead.py",
        "        self._link.bus.recall(await self._store.streams())\n",
        "        await self._store.streams()\n        self._link.bus.recall({})\n",
        (HOLD_TESTS + "::test_streams_that_were_learnt_are_kept_and_recalled", MODEL),
    ),
    Bug(
        "what was learnt of streams is lost with the term",
        "relay/engine/link.py",
        "        return {name: frozenset(subjects) for name, subjects in self._learnt.items()}\n",
        "        learnt, self._learnt = self._learnt, {}\n        return learnt\n",
        (SEAMS + "::test_what_was_learnt_of_streams_outlives_a_term_that_could_not_keep_it",),
    ),
    Bug(
        "what was learnt of streams is kept some time later",
        "relay/engine/settle.py",
        "            if streams:\n",
        "            if streams and settlement.parked:\n",
        (SEAMS + "::test_what_was_learnt_of_streams_is_kept_before_what_they_stored_is_settled",),
    ),
    Bug(
        "a hold ends though the page in hand waits for it",
        DELIVER,
        "        self.holds.wait_with_page(fates.left_by)\n",
        "",
        (HOLD_TESTS + "::test_a_hold_lasts_while_a_page_waits_for_it_though_nothing_parked_does",),
    ),
    Bug(
        "a lock on the parked ends the term",
        "relay/engine/outage.py",
        "            except (StoreFull, StoreBusy) as why:\n",
        "            except StoreFull as why:\n",
        (HOLD_TESTS + "::test_a_lock_on_the_parked_is_waited_for_within_the_term",),
    ),
)

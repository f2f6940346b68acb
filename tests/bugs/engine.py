"""Bugs of the core, the engine and the models."""

from tests.bugs.bug import Bug

MODEL = "tests/model"
TERMS = "tests/engine/test_terms.py"
HOLD_TESTS = "tests/engine/test_holds.py"
SEAMS = "tests/engine/test_seams.py"
FATES = "tests/core/test_disposition.py"
MEMORY = "tests/contract/test_memory.py"

DELIVER = "relay/engine/deliver.py"
DISPOSITION = "relay/core/disposition.py"

LOSS = (
    Bug(
        "a page is settled before its answers are there",
        DELIVER,
        "        repair = self._reconciliation\n",
        "        repair = self._reconciliation\n        self._settler.add(Done(page.position))\n",
        (MODEL,),
    ),
    Bug(
        "no answer is taken for an ack",
        DISPOSITION,
        "        if isinstance(fate, Stored):\n            fates.stored += 1\n",
        "        if isinstance(fate, Unknown) and fate is not WAITS:\n"
        "            fates.stored += 1\n            continue\n"
        "        if isinstance(fate, Stored):\n            fates.stored += 1\n",
        (MODEL,),
    ),
    Bug(
        "a row that can't be read is skipped",
        "relay/engine/link.py",
        '                return [Refused(f"the row can\'t be read: {unreadable[events[0].id]}")]\n',
        "                return [Stored()]\n",
        (MODEL,),
    ),
    Bug(
        "a parked row that can't be read is published",
        DELIVER,
        "{each.event.id: each.unreadable for each in due if each.unreadable}",
        "{each.event.id: each.unreadable for each in due if not each.event}",
        (MODEL,),
    ),
    Bug(
        "where the parked are locked, their page is settled without them",
        "relay/engine/settle.py",
        "            await self._store.settle(settlement)\n",
        "            try:\n"
        "                await self._store.settle(settlement)\n"
        "            except Exception:\n"
        "                await self._store.settle(Settlement(settlement.position))\n",
        (SEAMS + "::test_a_refused_event_is_kept_though_the_parked_are_locked", MODEL),
    ),
    Bug(
        "an event that was stored stays parked",
        DELIVER,
        "                done.unparked.append(each.event.event_id)\n",
        "                continue  # nothing is unparked\n",
        (MODEL,),
    ),
)

ORDER = (
    Bug(
        "a new event overtakes its key's parked one",
        DELIVER,
        "if self.parked.maybe and events else None\n",
        "if self.parked.maybe and not events else None\n",
        (MODEL,),
    ),
    Bug(
        "the next page is published before the parking of this one is settled",
        DELIVER,
        "            with self.parked.changing():\n"
        "                await self._settler.add_and_wait(done)\n",
        "            with self.parked.changing():\n                self._settler.add(done)\n",
        (MODEL,),
    ),
    Bug(
        "a look during a settlement counts as none parked",
        "relay/core/order.py",
        "        counts = token == self._changes and not self._open and not self._promised\n",
        "        counts = True\n",
        (MODEL,),
    ),
    Bug(
        "a look that began before a settlement counts as none parked",
        "relay/core/order.py",
        "            self._changes += 1\n",
        "            self._changes += 0\n",
        (SEAMS + "::test_a_look_that_began_before_a_settlement_does_not_open_the_fence", MODEL),
    ),
    Bug(
        "the fence is opened before the settlement is written",
        "relay/core/order.py",
        "        self.maybe = True\n        self._open += 1\n",
        "        self._open += 1\n",
        (MODEL,),
    ),
    Bug(
        "an event of the same page passes a refused one of its key",
        DISPOSITION,
        "            fates.refused.append((event, parking, fate))\n"
        "            fence.close(event.key)\n",
        "            fates.refused.append((event, parking, fate))\n",
        (FATES,),
    ),
    Bug(
        "an event of the same page passes one that is held up, of its key",
        DISPOSITION,
        "append(held(event, fate))\n            fence.close(event.key)\n",
        "append(held(event, fate))\n",
        (FATES, MODEL),
    ),
    Bug(
        "those behind an event that was not stored are not put behind it",
        "relay/core/order.py",
        "            outcomes[place] = WAITS\n",
        "            outcomes[place] = outcomes[place]\n",
        ("tests/core/test_order.py",),
    ),
    Bug(
        "a blocked chain lets go of its second event",
        "relay/core/order.py",
        "        while after >= 0:\n            behind.append(after)\n",
        "        while after >= 0 and not behind:\n            behind.append(after)\n",
        ("tests/core/test_order.py",),
    ),
)

TERM = (
    Bug(
        "nobody looks at the permit",
        "relay/memory/bus.py",
        "                if not permit.granted():\n",
        "                if permit is None:\n",
        (
            MEMORY,
            HOLD_TESTS + "::test_a_relay_that_has_lost_its_lease_sends_nothing_of_the_page_in_hand",
        ),
    ),
    Bug(
        "the loss of the term is taken for a failed look",
        "relay/engine/housekeeping.py",
        "        except StoreOutage as outage:\n",
        "        except Exception as outage:\n",
        (TERMS + "::test_a_leader_whose_epoch_has_passed_stops_leading_even_when_idle",),
    ),
    Bug(
        "a leader is ready though no look succeeds any more",
        "relay/state.py",
        "        return failing is not None and self._now() - failing.since >= BLIND_AFTER\n",
        "        return failing is None\n",
        ("tests/http/test_health.py::test_a_leader_that_can_t_look_at_its_backlog_is_not_ready",),
    ),
    Bug(
        "a refusal is told before it is kept",
        "relay/engine/deliver.py",
        "        done.refusals.append(Parked.of(event, parking, why.fault))\n",
        "        self._record(Parked.of(event, parking, why.fault))\n",
        (HOLD_TESTS + "::test_a_refusal_is_told_once_it_is_kept",),
    ),
    Bug(
        "an answer to who has not failed ends the outage of who has",
        "relay/engine/outage.py",
        "        if failed and not self._waiting:\n",
        "        if self.lasts:\n",
        ("tests/engine/test_outage.py",),
    ),
    Bug(
        "pages wait for a session, and nothing says so",
        "relay/engine/outage.py",
        "                await pause(self.failed(why))\n",
        "                await pause(0.1)\n",
        (HOLD_TESTS + "::test_a_pool_without_a_free_session_ends_no_term",),
    ),
    Bug(
        "nobody watches the lease",
        "relay/engine/lead.py",
        "            tasks.start_soon(self._store.watch)\n",
        "",
        (SEAMS + "::test_a_lease_that_is_lost_ends_the_term_of_an_idle_leader",),
    ),
    Bug(
        "a term that is over settles",
        "relay/memory/outbox.py",
        "        self._fence()\n        outbox = self._outbox\n        unsettled",
        "        outbox = self._outbox\n        unsettled",
        (MEMORY, MODEL),
    ),
    Bug(
        "a term that is over leaves its connection open",
        "relay/engine/lead.py",
        "                await self._link.close()  # at once",
        "                # at once",
        (
            TERMS
            + "::test_a_term_that_is_over_has_dropped_its_connection_before_anybody_hears_of_it",
        ),
    ),
    Bug(
        "a new term finds the breaker as the last one left it",
        "relay/engine/link.py",
        "        self._outage.trying()  # a new term does not wait for the last one's pause\n",
        "",
        (TERMS,),
    ),
    Bug(
        "what is on its way to the parked counts as delivered already",
        "relay/engine/settle.py",
        "done.position is not None and not done.parked",
        "done.position is not None",
        ("tests/engine/test_settle.py",),
    ),
    Bug(
        "what is added while a settlement lasts waits from its end on",
        "relay/engine/settle.py",
        "None if self._done is None else self._waits_since",
        "None if self._done is None else anyio.current_time()",
        ("tests/engine/test_settle.py",),
    ),
    Bug(
        "an outage keeps the first of its reasons",
        "relay/engine/outage.py",
        "        elif type(why) is not self._kind and",
        "        elif False and",
        ("tests/engine/test_outage.py",),
    ),
    Bug(
        "a session is closed under a task that waits in it",
        "relay/postgres/session.py",
        "        if not self.is_waited_for:\n",
        "        if True:\n",
        ("tests/postgres/test_drop.py",),
    ),
    Bug(
        "pages are read ahead without a bound",
        "relay/engine/lead.py",
        "create_memory_object_stream[Page](0)",
        "create_memory_object_stream[Page](9)",
        (MODEL,),
    ),
    Bug(
        "a source whose rings take too long for a moment is left to the poll",
        "relay/engine/bell.py",
        "            soon = able or now < self._armed_until + RANG_LATELY\n",
        "            soon = able\n",
        ("tests/engine/test_bell.py",),
    ),
    Bug(
        "a source that starts anew keeps its lock, and rings at any rate",
        "relay/engine/bell.py",
        "            self._disarm()  # mostly its sessions",
        "            self._silent_below = None  # mostly its sessions",
        ("tests/engine/test_bell.py",),
    ),
)

BUGS: tuple[Bug, ...] = LOSS + ORDER + TERM

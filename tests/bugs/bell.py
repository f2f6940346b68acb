"""Bugs of the bell: its trigger, its Postgres end, and its end in the engine."""

from tests.bugs.bug import HANGS, Bug

RING = "tests/postgres/test_ring.py"
BELL = "tests/postgres/test_bell.py"
BELL_IDS = "tests/postgres/test_bell_ids.py"

FIRST = (
    Bug(
        "N is the snapshot's xmax, and not the next transaction id",
        "relay/postgres/bell.py",
        "                return xmax + int(ahead)\n",
        "                return xmax\n",
        (BELL_IDS + "::test_n_is_the_next_transaction_id",),
    ),
    Bug(
        "every commit rings, asleep or not",
        "sql/triggers/relay_notify.sql",
        "         when (not (pg_try_advisory_lock_shared",
        "         when (true or not (pg_try_advisory_lock_shared",
        (RING,),
    ),
    Bug(
        "a full queue of notifications fails the producers",
        "sql/functions/notify.sql",
        "  if pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5\n",
        "  if pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 1.5\n",
        (RING,),
    ),
    Bug(
        "it believes at once that nobody is silent any more",
        "relay/engine/bell.py",
        "        elif not self._sure and page.xmin < self._silent_below:\n",
        "        elif not self._sure and page.xmin < 0:\n",
        ("tests/engine/test_bell.py",),
    ),
    Bug(
        "it waits to be rung without a last read",
        "relay/engine/bell.py",
        "            await self._arm(now)\n",
        "            await self._arm(now)\n            await self._wait(self._poll_interval)\n",
        ("tests/engine/test_bell.py",),
    ),
    Bug(
        "it does not listen again when the session is gone",
        "relay/postgres/bell.py",
        "            await anyio.sleep(self._retry.failed(self._jitter()))\n",
        "            await anyio.sleep_forever()\n",
        (BELL + "::test_a_killed_listener_is_made_anew_and_rings_again",),
    ),
    Bug(
        "an arm that comes first loses the lock to the release behind it",
        "relay/postgres/bell.py",
        "                if self._leaving:\n                    self._held",
        "                if True:\n                    self._held",
        ("tests/postgres/test_bell_turns.py",),
        HANGS,
    ),
    Bug(
        "a trial commit that was too slow counts as a notification that was heard",
        "relay/postgres/bell.py",
        "                    await self._first_test()\n",
        "                    await self._self_test()\n",
        (BELL + "::test_behind_a_pooler_a_trial_that_was_too_slow_does_not_make_the_bell_work",),
    ),
    Bug(
        "an arm keeps the lock though a trial commit became too slow meanwhile",
        "relay/postgres/bell.py",
        "        if self.ring_seconds is None:  # now,",
        "        if self.ring_seconds is None and self._held is None:  # now,",
        (BELL + "::test_an_arm_during_which_rings_became_too_slow_gives_the_lock_back",),
    ),
    Bug(
        "a ring that came before the sleep is slept through",
        "relay/postgres/ring.py",
        "        if self.is_rung:\n",
        "        if self.is_rung and seconds <= 0:\n",
        (
            "tests/postgres/test_bell_sleep.py::test_a_ring_before_the_sleep_ends_it_at_once_and_no_other",
        ),
        HANGS,
    ),
)

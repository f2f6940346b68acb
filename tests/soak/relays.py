"""Faults of the relays. Only processes of the fleet are signalled, each by its id."""

import subprocess
import threading
import time
from collections.abc import Callable

from tests.soak.fleet import VANISHING, Slot
from tests.soak.registry import fault, rest
from tests.soak.schedule import Params
from tests.soak.world import World

_STOPS_WITHIN = 15.0
_TAKEOVER_WITHIN = 10.0


@fault("kill -9 of the leader", "relays")
def _kill_leader(world: World, _: Params) -> bool:
    slot = _leader_to_end(world)
    if slot is not None:
        slot.kill()
    return slot is not None


@fault("kill -9 of a standby", "relays")
def _kill_standby(world: World, _: Params) -> bool:
    slot = _standby_to_end(world)
    slot.kill()
    return True


@fault("SIGSTOP of the leader", "relays")
def _stop_leader(world: World, params: Params) -> bool:
    slot = world.fleet.leader()
    if slot is None:
        return False
    with slot.lock:
        slot.pause()
        rest(params)
        slot.resume()
    return True


@fault("SIGSTOP of the leader past a takeover", "relays")
def _sleep_through_takeover(world: World, params: Params) -> bool:
    slot = world.fleet.leader()
    if slot is None:
        return False
    with slot.lock:
        slot.pause()
        taken = _wait(lambda: world.fleet.leader() not in {None, slot}, _TAKEOVER_WITHIN)
        rest(params)
        slot.resume()
    return taken


@fault("host vanished", "relays")
def _vanish(world: World, params: Params) -> bool:
    """All that the host sends and is sent is swallowed, and nobody hears that it is gone."""
    slot = world.fleet.slots[VANISHING]
    cables = [proxy for name, proxy in world.proxies.items() if name.startswith("cable")]

    def leads() -> bool:
        leader = world.fleet.leader()
        if leader is not None and leader is not slot:
            world.begin_another_term()
        return leader is slot

    led = _wait(leads, _TAKEOVER_WITHIN)
    with slot.lock:
        for cable in cables:
            cable.freeze()
        slot.kill()
        slot.relay.process.wait(_STOPS_WITHIN)
        if led:
            _wait(lambda: world.fleet.leader() not in {None, slot}, _TAKEOVER_WITHIN)
        rest(params)
        for cable in cables:
            cable.reset()
            cable.heal()
        slot.begin()
    return True


@fault("failpoint", "relays")
def _failpoint(world: World, params: Params) -> bool:
    slot = _standby_to_end(world)
    place = str(params["place"]).replace(" ", "-")
    with slot.lock:
        slot.kill()
        slot.relay.process.wait(_STOPS_WITHIN)
        slot.begin(f"{place}={params['action']}:{params['visit']}")
    world.begin_another_term()
    return True


@fault("SIGTERM of the leader", "relays")
def _terminate_leader(world: World, _: Params) -> bool:
    slot = _leader_to_end(world)
    if slot is not None:
        _terminate(world, slot)
    return slot is not None


@fault("SIGTERM of all relays, one by one", "relays")
def _roll(world: World, _: Params) -> bool:
    for slot in world.fleet.slots:
        if not slot.survives:
            _terminate(world, slot)
    return True


def _terminate(world: World, slot: Slot) -> None:
    with slot.lock:
        slot.terminate()
        slot.resume()  # it may be frozen at a failpoint
        try:
            slot.relay.process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            world.violations.append(
                f"relay {slot.number} (pid {slot.pid}) did not stop within {_STOPS_WITHIN:g} s"
            )
            slot.kill()


def _leader_to_end(world: World) -> Slot | None:
    """Find a leader that may be ended; the survivor is unseated until another one leads."""
    found: list[Slot] = []

    def suitable() -> bool:
        slot = world.fleet.leader()
        if slot is None:
            return False
        if slot.survives:
            world.begin_another_term()
            return False
        found.append(slot)
        return True

    return found[0] if _wait(suitable, _TAKEOVER_WITHIN) else None


def _standby_to_end(world: World) -> Slot:
    leader = world.fleet.leader()
    return next(slot for slot in world.fleet.slots if not slot.survives and slot is not leader)


def _wait(fact: Callable[[], bool], seconds: float) -> bool:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not fact():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.1)
    return True

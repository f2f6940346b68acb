"""Faults of the network between the relays and one side, in one direction or both.

A connection that had bytes swallowed never goes on: TCP delivers a prefix of what was sent, or more
of it, but never something with a hole. So such a fault ends with the connections it touched.
"""

from typing import cast

from tests.soak.registry import fault, rest
from tests.soak.schedule import Params
from tests.soak.world import World
from tests.system.proxy import BOTH, Direction, Proxy

_HOLDS = "proxy of {side}"


def _proxy(world: World, params: Params) -> Proxy:
    return world.proxies[str(params["side"])]


def _ways(params: Params) -> tuple[Direction, ...]:
    way = params["way"]
    return BOTH if way == "both" else (cast(Direction, way),)


@fault("frozen", _HOLDS)
def _freeze(world: World, params: Params) -> bool:
    proxy = _proxy(world, params)
    proxy.freeze(*_ways(params))
    rest(params)
    proxy.heal()
    return True


@fault("bytes dropped", _HOLDS)
def _drop(world: World, params: Params) -> bool:
    proxy = _proxy(world, params)
    proxy.drop(*_ways(params))
    rest(params)
    proxy.refuse()
    proxy.heal()
    return True


@fault("connections refused", _HOLDS)
def _refuse(world: World, params: Params) -> bool:
    proxy = _proxy(world, params)
    proxy.refuse()
    rest(params)
    proxy.heal()
    return True


@fault("connections reset", _HOLDS)
def _reset(world: World, params: Params) -> bool:
    _proxy(world, params).reset()
    return True


@fault("connections half closed", _HOLDS)
def _half_close(world: World, params: Params) -> bool:
    _proxy(world, params).half_close(*_ways(params))
    return True


@fault("connections cut", _HOLDS)
def _cut(world: World, params: Params) -> bool:
    proxy = _proxy(world, params)
    proxy.cut_after(int(params["bytes"]), *_ways(params))
    rest(params)
    proxy.heal()
    return True


@fault("slow", _HOLDS)
def _slow(world: World, params: Params) -> bool:
    proxy = _proxy(world, params)
    delay = float(params["delay"])
    proxy.delay(delay, delay, *_ways(params))
    rest(params)
    proxy.heal()
    return True

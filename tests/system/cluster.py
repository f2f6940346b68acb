"""A NATS cluster on loopback, and what happens to its nodes and to the streams on them.

A stream has three replicas. With four nodes one is left over, to take a replica that is moved. A
node that was killed or stopped keeps its store and its port.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import nats
from nats.errors import Error as NatsError

from relay import devstack
from relay.devstack.sandbox import free_port
from tests.system import streams
from tests.system.harness import alone, until

NODE = """
server_name: {name}
cluster {{ name: C, listen: "127.0.0.1:{port}", routes: [{routes}] }}
lame_duck_grace_period: "1s"
lame_duck_duration: "30s"
"""
REPLICAS = 3
WITHIN = 60.0
"""Seconds: an election takes 4 to 9 s, and on a busy machine a second one."""

MAJORITY_AWAY = 2.0

Flows = Callable[[], None]

AWAY = (NatsError, OSError, TimeoutError, AssertionError)
"""What a cluster raises that has no leader yet."""


SETTLED = "select not exists (select from relay.pending where id <= %s)"


class Cluster:
    """Nodes by name; ``made`` are the streams that they hold."""

    def __init__(self, nodes: dict[str, devstack.NatsServer]) -> None:
        self.nodes = nodes
        self.made: list[str] = []
        self._up = list(nodes)

    @property
    def urls(self) -> str:
        """Where a relay connects: every node, as one setting."""
        return ",".join(node.url for node in self.nodes.values())

    @property
    def url(self) -> str:
        """A node that is up."""
        return self.nodes[self._up[0]].url

    def make(self, stream: str, subjects: str, **config: Any) -> None:
        """Make a stream of three replicas, as soon as the cluster can."""

        def done() -> bool:
            try:
                streams.make(self.url, stream, subjects, num_replicas=REPLICAS, **config)
            except AWAY:
                return self.leader(stream) is not None
            return True

        until(done, WITHIN)
        self.made.append(stream)

    def state(self, stream: str) -> dict[str, Any]:
        """The stream's cluster as its leader sees it; empty while there is none."""

        async def ask() -> dict[str, Any]:
            async with asyncio.timeout(2), await _connected(self.url) as client:
                info = await client.jetstream(timeout=1).stream_info(stream)
                cluster = info.cluster
                if cluster is None or not cluster.leader:
                    return {}
                replicas = {each.name: each.current for each in cluster.replicas or ()}
                return {"leader": cluster.leader, "replicas": replicas}

        try:
            return asyncio.run(ask())
        except AWAY:
            return {}

    def state_with_leader(self, stream: str) -> dict[str, Any]:
        """Wait until the stream has a leader that answers; its state."""
        found = dict[str, Any]()

        def answered() -> bool:
            found.update(self.state(stream))
            return bool(found)

        until(answered, WITHIN)
        return found

    def leader(self, stream: str) -> str | None:
        """The node that leads the stream; None while none does."""
        return self.state(stream).get("leader")

    def is_whole(self) -> bool:
        """Whether every stream has a leader, and two replicas that are up to date."""
        states = [self.state(stream) for stream in self.made]
        return all(
            list(state.get("replicas", {}).values()) == [True] * (REPLICAS - 1) for state in states
        )

    def gather(self) -> str:
        """Let one node lead every stream, as far as they let themselves be moved; that node."""
        until(self.is_whole, WITHIN)
        states = {stream: self.state_with_leader(stream) for stream in self.made}
        holders = ({state["leader"], *state["replicas"]} for state in states.values())
        chosen = min(set.intersection(*holders))
        for stream, state in states.items():
            if state["leader"] != chosen:
                self.step_down(stream, placement={"preferred": chosen})
        until(lambda: all(self.leader(stream) == chosen for stream in self.made), WITHIN)
        return chosen

    def step_down(self, stream: str, **wish: Any) -> None:
        """Have the leader of a stream give up its place."""
        answer = streams.ask(self.url, f"STREAM.LEADER.STEPDOWN.{stream}", wish or None)
        assert answer.get("success"), answer

    def move(self, stream: str, node: str) -> None:
        """Take a replica away from a node; the cluster gives it to one without."""
        answer = streams.ask(self.url, f"STREAM.PEER.REMOVE.{stream}", {"peer": node})
        assert answer.get("success"), answer

    def followers(self, stream: str) -> Sequence[str]:
        return sorted(self.state_with_leader(stream)["replicas"])

    def kill(self, *names: str) -> None:
        for name in names:
            self._up.remove(name)
            self.nodes[name].kill()

    def stop(self, name: str) -> None:
        self._up.remove(name)
        self.nodes[name].stop()

    def retire(self, name: str) -> None:
        """Ask a node to leave in lame duck mode, and wait until it has."""
        self._up.remove(name)
        pid = self.nodes[name].pid
        os.kill(pid, signal.SIGUSR2)
        until(
            lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, 45
        )
        self.nodes[name].stop()

    def start(self, *names: str) -> None:
        for name in names:
            self.nodes[name].start()
            self._up.append(name)


@contextmanager
def nats_cluster(members: int = REPLICAS) -> Iterator[Cluster]:
    """Run a cluster of so many nodes."""
    routes = set[int]()
    while len(routes) < members:
        routes.add(free_port())
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        nodes = dict[str, devstack.NatsServer]()
        for number, port in enumerate(routes, 1):
            config = NODE.format(name=f"n{number}", port=port, routes=listed)
            nodes[f"n{number}"] = stack.enter_context(devstack.nats_server(config))
        yield Cluster(nodes)


def _connected(url: str) -> Any:
    return nats.connect(url, connect_timeout=1, allow_reconnect=False)


def settles_again(dsn: str) -> Callable[[], bool]:
    """Ask whether everything is settled that is committed by now, under a load of new events."""
    last = alone(dsn, "select max(id) from relay.outbox")
    return lambda: alone(dsn, SETTLED, last)


# What happens to a cluster. Each is over when it returns; ``flows`` waits until events
# are settled again.


def stepped_down(cluster: Cluster, flows: Flows) -> None:
    for stream in cluster.made:
        cluster.step_down(stream)
    flows()


def leader_killed(cluster: Cluster, flows: Flows) -> None:
    leader = cluster.gather()
    cluster.kill(leader)
    flows()
    cluster.start(leader)


def minority_lost(cluster: Cluster, flows: Flows) -> None:
    follower = cluster.followers(cluster.made[0])[0]
    cluster.kill(follower)
    flows()
    cluster.start(follower)


def majority_lost(cluster: Cluster, flows: Flows) -> None:
    lost = cluster.gather(), cluster.followers(cluster.made[0])[0]
    cluster.kill(*lost)
    threading.Event().wait(MAJORITY_AWAY)
    cluster.start(*lost)
    flows()


def rolling_restart(cluster: Cluster, flows: Flows) -> None:
    for node in cluster.nodes:
        cluster.stop(node)
        cluster.start(node)
        until(cluster.is_whole, WITHIN)
    flows()


def lame_duck(cluster: Cluster, flows: Flows) -> None:
    leader = cluster.gather()
    cluster.retire(leader)
    flows()
    cluster.start(leader)


def replica_moved(cluster: Cluster, flows: Flows) -> None:
    """Take the leader's own replica of each stream away."""
    for stream in cluster.made:
        cluster.move(stream, cluster.state_with_leader(stream)["leader"])
    flows()


FAILOVERS: Final[dict[str, Callable[[Cluster, Flows], None]]] = {
    "step-down": stepped_down,
    "leader killed": leader_killed,
    "minority lost": minority_lost,
    "majority lost": majority_lost,
    "rolling restart": rolling_restart,
    "lame duck": lame_duck,
    "replica moved": replica_moved,
}

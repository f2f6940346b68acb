"""One relay process: an engine that can die or freeze at each of its awaits.

    running ──die──► dead: nothing that it still does has an effect; its memory is lost
       │ ▲
    freeze thaw      frozen: each task stands still at its next gate, and goes on as if nothing
       ▼ │           had happened
     frozen

Only what another party can notice counts, so there is a gate before and behind every call of an
adapter, and none at the engine's own sleeps: dying in one of those is dying at the next gate.
"""

from collections.abc import Callable

import trio
import trio.lowlevel

from relay.engine.lead import Engine, Policy
from relay.facts import Fact
from relay.ports import EventBus, Outbox, WakeSource


class Process:
    """Runs one engine; ``begin`` says what its adapters are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = self.stopping = False
        self.facts: list[Fact] = []
        self.error: BaseException | None = None
        self.on_death: Callable[[], None] = lambda: None
        self.on_fact: Callable[[Fact], None] = lambda _fact: None
        self._vanishes = False
        self._die_in: int | None = None
        self._freeze_in: int | None = None
        self._thawed: trio.Event | None = None
        self._scope = trio.CancelScope()
        self._engine: Engine

    def begin(
        self,
        adapters: tuple[Outbox, EventBus, WakeSource],
        policy: Policy,
        jitter: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        """Start the engine."""
        self._engine = Engine(
            *adapters, holder=self.name, policy=policy, record=self._hear, jitter=jitter
        )
        nursery.start_soon(self._run)

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._thawed is not None

    def stop(self) -> None:
        """Ask it to finish, as SIGTERM does."""
        self.stopping = True
        self._engine.stop()

    def die(self, after: int = 0, *, noticed: bool = True) -> None:
        """Die at the gate after ``after`` others; with 0 at once. Does the server notice?"""
        if not noticed:
            self._vanishes = True
        if after:
            self._die_in = after
            return
        self.dead = True
        self.thaw()
        self._scope.cancel()
        self._leave()

    def freeze(self, after: int = 0) -> None:
        """Stand still at the gate after ``after`` others; with 0 at the next."""
        self._freeze_in = after or 1

    def calm_down(self) -> None:
        """Forget where it was to die or freeze."""
        self._die_in = self._freeze_in = None

    def thaw(self) -> None:
        """Go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def gate(self) -> None:
        """Pass, unless this is where it dies or freezes."""
        await trio.lowlevel.checkpoint()
        if self._freeze_in is not None:
            self._freeze_in -= 1
            if self._freeze_in <= 0:
                self._freeze_in = None
                self._thawed = trio.Event() if self._thawed is None else self._thawed
        if self._die_in is not None:
            self._die_in -= 1
            if self._die_in <= 0:
                self._die_in = None
                self.die()
        await self.stand_still()
        if self.dead:
            await trio.sleep_forever()  # cancelled: the scope is

    async def stand_still(self) -> None:
        """Wait while frozen."""
        while self._thawed is not None:
            await self._thawed.wait()

    async def _run(self) -> None:
        with self._scope:
            try:
                await self._engine.run()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                self.error = error
            self.dead = True
            self._leave()

    def _leave(self) -> None:
        """Let go of the server, unless the whole machine has vanished."""
        if not self._vanishes:
            self.on_death()

    def _hear(self, fact: Fact) -> None:
        if not self.dead:
            self.facts.append(fact)
            self.on_fact(fact)

"""The lease as the server keeps it: a session that is silent for the lifetime is ended.

    leader speaks at least once a second ──silent for LIFETIME──► the server ends its session

A call that the server works on counts as speaking when it arrives and when it is done. Nobody else
is told: whoever campaigns next finds the lease free, and the old leader finds its session gone.
"""

from dataclasses import dataclass

from relay.memory import MemoryOutbox, MemoryStore

LIFETIME = 5.0
MARGIN = 1.0
"""Seconds. The leader trusts its lease for LIFETIME - MARGIN after it asked for the last proof."""


@dataclass
class Session:
    """One term's session at the server.

    Attributes:
        store: the term.
        spoke_at: when the server last had anything of it.
        ended: the server has ended it.
        robbed: it lost the lease before its lifetime was over, as a failover does.
    """

    store: MemoryStore
    spoke_at: float
    ended: bool = False
    robbed: bool = False


class Server:
    """Ends silent sessions."""

    def __init__(self, outbox: MemoryOutbox) -> None:
        self.outbox = outbox
        self.sessions: dict[int, Session] = {}

    def begin(self, store: MemoryStore, now: float) -> Session:
        """Open the session of a term."""
        session = self.sessions[store.epoch] = Session(store, now)
        return session

    def reap(self, now: float) -> None:
        """End every session that has been silent for too long."""
        for session in self.sessions.values():
            if not session.ended and now - session.spoke_at >= LIFETIME:
                self.end(session)

    def end(self, session: Session) -> None:
        """End one session, and with it the lease that it holds."""
        session.ended = True
        if self.outbox.leader is session.store:
            self.outbox.leader = None

    def take_the_lease(self, *, ended: bool) -> None:
        """Take the lease from whoever holds it; his session ends, or goes on and knows nothing."""
        for session in self.sessions.values():
            if self.outbox.leader is session.store:
                session.robbed = True
                session.ended = ended
        self.outbox.leader = None

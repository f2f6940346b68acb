"""Rights to send, for tests: always granted, and never."""

import anyio.lowlevel

from relay.errors import TermLost


class Always:
    """``relay.ports.Permit`` that is granted."""

    def granted(self) -> bool:
        return True

    async def renew(self) -> None:
        await anyio.lowlevel.checkpoint()


class Never:
    """``relay.ports.Permit`` of a term that is over."""

    def granted(self) -> bool:
        return False

    async def renew(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise TermLost("the term is over")

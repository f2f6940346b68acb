"""Sockets to listen on: every address of a name, or an error that says why not."""

import errno
import socket
from contextlib import suppress
from typing import Final

from relay.settings.kinds import Address

_NOT_OURS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_BACKLOG: Final = 64
_UNTAKEN: Final = 20_000
"""Milliseconds after which the kernel ends a connection whose other side takes nothing."""


def listen(address: Address) -> list[socket.socket]:
    """Bind every address of ``address``; port 0 becomes the same free port for all of them.

    Raises:
        OSError: one of them is taken or forbidden, or none of them is this machine's.
    """
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    not_ours: OSError | None = None
    port = address.port
    for family, host in dict.fromkeys((each[0], str(each[4][0])) for each in found):
        try:
            sockets.append(_bind(family, host, port))
        except OSError as error:
            not_ours = error
            # A name may have an IPv6 address on a machine without IPv6.
            if error.errno not in _NOT_OURS:
                break
        else:
            port, not_ours = sockets[0].getsockname()[1], None
    if not_ours is not None and (not sockets or not_ours.errno not in _NOT_OURS):
        for each in sockets:
            each.close()
        raise not_ours
    return sockets


def _bind(family: int, host: str, port: int) -> socket.socket:
    dual = host == "::" and socket.has_dualstack_ipv6()
    bound = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    bound.setblocking(False)
    # Connections inherit both: who vanished, or takes nothing, is not kept for ever.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with suppress(AttributeError, OSError):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN)
    return bound

"""Makes a browser's PNG smaller: the same picture in at most 256 colours, written with patience.

A browser writes pictures fast, not small. The few colours of a page are kept as they are, its many
rare shades of smoothed edges become the nearest of those.
"""

import struct
import zlib
from collections import Counter
from itertools import chain

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
CHANNELS = {2: 3, 6: 4}


def smaller(png: bytes) -> bytes:
    """Rewrite a PNG of 8 bits a channel, RGB or RGBA, without interlacing."""
    header, content = b"", b""
    for kind, chunk in _chunks(png):
        if kind == b"IHDR":
            header = chunk
        elif kind == b"IDAT":
            content += chunk
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    assert (depth, interlaced) == (8, 0)
    rows = _rows(zlib.decompress(content), width, height, CHANNELS[colour])
    counts = Counter(chain.from_iterable(rows))
    palette = [shade for shade, _ in counts.most_common(COLOURS)]
    places = {shade: palette.index(_nearest(shade, palette)) for shade in counts}
    lines = b"".join(b"\0" + bytes(places[shade] for shade in row) for row in rows)
    return SIGNATURE + b"".join(
        _chunk(kind, chunk)
        for kind, chunk in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(chain.from_iterable(palette))),
            (b"IDAT", zlib.compress(lines, 9)),
            (b"IEND", b""),
        )
    )


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], len(SIGNATURE)
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        place += length + 12
    return found


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _rows(raw: bytes, width: int, height: int, channels: int) -> list[list[tuple[int, ...]]]:
    """Undo the filters; return each row's shades."""
    size, rows = width * channels, []
    above = bytearray(size)
    for number in range(height):
        start = number * (size + 1)
        row = bytearray(raw[start + 1 : start + 1 + size])
        _unfilter(raw[start], row, above, channels)
        rows.append([tuple(row[at : at + 3]) for at in range(0, size, channels)])
        above = row
    return rows


def _unfilter(kind: int, row: bytearray, above: bytearray, channels: int) -> None:
    for at in range(len(row)) if kind else ():
        left = row[at - channels] if at >= channels else 0
        corner = above[at - channels] if at >= channels else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[at]
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            guess = _paeth(left, above[at], corner)
        row[at] = (row[at] + guess) & 0xFF


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def _nearest(shade: tuple[int, ...], palette: list[tuple[int, ...]]) -> tuple[int, ...]:
    return min(
        palette, key=lambda known: sum((a - b) ** 2 for a, b in zip(shade, known, strict=True))
    )

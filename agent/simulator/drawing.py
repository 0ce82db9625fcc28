"""Shapes with smooth edges for Tk, whose canvas has none: small pictures with an opacity for each pixel."""

from __future__ import annotations

import functools

from agent.simulator.png import encode_rgba

_FINE = 4  # samples a pixel and direction


@functools.lru_cache(maxsize=256)
def rounded(width: int, height: int, radius: int, colour: str, border: str = "") -> bytes:
    """A filled rectangle with round corners, as PNG; `border` draws its outline one pixel wide."""
    radius = min(radius, width // 2, height // 2)
    fill, edge = _rgb(colour), _rgb(border or colour)
    corner = [[_coverage(x, y, radius) for x in range(radius)] for y in range(radius)]
    inner = [[_coverage(x - 1, y - 1, radius - 1) if x and y else 0.0 for x in range(radius)] for y in range(radius)]
    pixels = bytearray()
    for y in range(height):
        from_edge = min(y, height - 1 - y)
        if from_edge >= radius:
            side = [_pixel(edge, fill, 1.0, 1.0 if x or not border else 0.0) for x in range(radius)]
            middle = _pixel(edge, fill, 1.0, 1.0)
        else:
            side = [
                _pixel(edge, fill, corner[from_edge][x], inner[from_edge][x] if border else corner[from_edge][x])
                for x in range(radius)
            ]
            middle = _pixel(edge, fill, 1.0, 0.0 if border and from_edge == 0 else 1.0)
        pixels += b"".join(side) + middle * (width - 2 * radius) + b"".join(reversed(side))
    return encode_rgba(width, height, pixels)


def mix(one: str, other: str, part: float) -> str:
    """The colour that is `part` of the other and the rest of the one."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(_rgb(one), _rgb(other)))  # noqa: B905 - 3.9
    return f"#{red:02x}{green:02x}{blue:02x}"


def _coverage(x: int, y: int, radius: int) -> float:
    """How much of a pixel lies within the quarter circle of a top left corner."""
    inside = 0
    for fine_x in range(_FINE):
        for fine_y in range(_FINE):
            dx = radius - (x + (fine_x + 0.5) / _FINE)
            dy = radius - (y + (fine_y + 0.5) / _FINE)
            inside += dx * dx + dy * dy <= radius * radius
    return inside / _FINE**2


def _pixel(edge: tuple[int, ...], fill: tuple[int, ...], outer: float, inner: float) -> bytes:
    if outer <= 0:
        return b"\0\0\0\0"
    part = min(1.0, inner / outer)
    return bytes([*(round(e + (f - e) * part) for e, f in zip(edge, fill)), round(outer * 255)])  # noqa: B905 - 3.9


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))

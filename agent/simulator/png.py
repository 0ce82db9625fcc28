"""PNG pictures without a library: enough to show a screen and to draw one."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _RGBA = 2, 6


def encode_rgb(width: int, height: int, pixels: bytes | bytearray, *, level: int = 3) -> bytes:
    """A PNG of `pixels`, three bytes each, row by row."""
    return _encode(width, height, pixels, colour_type=_RGB, level=level)


def encode_rgba(width: int, height: int, pixels: bytes | bytearray, *, level: int = 6) -> bytes:
    """A PNG of `pixels`, four bytes each, the last one opacity."""
    return _encode(width, height, pixels, colour_type=_RGBA, level=level)


def _encode(width: int, height: int, pixels: bytes | bytearray, *, colour_type: int, level: int) -> bytes:
    stride = width * (3 if colour_type == _RGB else 4)
    if len(pixels) != stride * height:
        raise ValueError(f"found {len(pixels)} bytes of pixels, expected {stride * height} for {width}x{height}")
    view = memoryview(pixels)
    rows = b"".join(b"\0" + view[start : start + stride] for start in range(0, len(pixels), stride))
    header = struct.pack(">2I5B", width, height, 8, colour_type, 0, 0, 0)
    return b"".join(
        [_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, level)), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""A machine's screen: an X display without a monitor, whose picture can be read and whose keys can be pressed."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import zlib
from pathlib import Path

from agent.simulator import children
from agent.simulator.png import encode_rgb

_START_S = 60.0  # a busy computer takes many times the second of an idle one
# XWD files (X11/XWDFile.h): 25 words, big-endian, then the window's name, the colour map, the picture.
_HEADER = struct.Struct(">25I")
_BITS_PER_PIXEL, _BYTES_PER_LINE, _COLOURS = 11, 12, 19
_COLOUR_BYTES = 12


class DisplayError(Exception):
    """The X display did not start, or its picture is of a kind that we do not read."""


class Display:
    """One Xvfb. Safe to read from several threads; input is pressed by one at a time."""

    def __init__(self, folder: Path, *, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._folder = folder
        self._picture = folder / "Xvfb_screen0"
        self._process: subprocess.Popen[bytes] | None = None
        self._input = threading.Lock()
        self.name = ""

    def start(self) -> None:
        """Starts the X server on a number that it finds free itself. Raises DisplayError, MissingProgram."""
        children.require("Xvfb", "xdotool")
        reader, writer = os.pipe()
        try:
            self._process = children.start(
                [
                    *("Xvfb", "-displayfd", str(writer), "-screen", "0", f"{self.width}x{self.height}x24"),
                    *("-fbdir", str(self._folder), "-nolisten", "tcp", "-noreset", "-nocursor", "-dpi", "96"),
                ],
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.close(writer)
            writer = -1
            with open(reader, "rb", closefd=False) as pipe:
                number = pipe.readline().strip().decode("ascii")  # ends also when Xvfb dies: it holds the other end
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        if not number:
            status = self._process.wait()
            raise DisplayError(f"Xvfb ended with status {status} before it said which display it is.")
        self.name = f":{number}"

    def stop(self) -> None:
        if self._process is not None:
            children.stop(self._process)
        self._process = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to appear on this display."""
        return {**os.environ, "DISPLAY": self.name}

    def mark(self) -> int:
        """A number that changes when the picture does."""
        return zlib.crc32(self._raw()[2])

    def screenshot(self) -> bytes:
        """What is on the screen, as PNG."""
        stride, start, data = self._raw()
        pixels = bytearray(self.width * self.height * 3)
        end = start + stride * self.height
        if stride == self.width * 4:
            # Slices of whole planes run at the speed of C: a megapixel takes some 10 ms.
            pixels[0::3], pixels[1::3], pixels[2::3] = (data[start + plane : end : 4] for plane in (2, 1, 0))
        else:
            raise DisplayError(f"found {stride} bytes a line of {self.width} pixels, expected {self.width * 4}")
        return encode_rgb(self.width, self.height, pixels)

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """The colour at a place of the screen: red, green, blue."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise ValueError(f"found the place {x},{y}, expected one within {self.width}x{self.height}")
        stride, start, data = self._raw()
        at = start + y * stride + x * 4
        return data[at + 2], data[at + 1], data[at]

    def click(self, x: int, y: int, *, button: int = 1) -> None:
        """Presses and releases a button of the mouse there."""
        self._xdotool("mousemove", str(int(x)), str(int(y)), "click", str(int(button)))

    def key(self, name: str) -> None:
        """Presses and releases a key by its X name, such as F2, Return or ctrl+a."""
        if not name.replace("_", "").replace("+", "").isalnum():
            raise ValueError(f"found key {name[:30]!r}, expected an X key name such as F2 or Return")
        self._xdotool("key", "--", name)

    def type_text(self, text: str) -> None:
        """Types these characters, whatever the keyboard has on its keys."""
        # A character that no key has gets one for as long as the delay; a program that looks later finds none.
        delay_ms = 4 if text.isascii() else 100
        self._xdotool("type", "--delay", str(delay_ms), "--", text)

    def _xdotool(self, *arguments: str) -> None:
        with self._input:
            done = subprocess.run(
                ["xdotool", *arguments], env=self.environment, capture_output=True, timeout=20, check=False
            )
        if done.returncode != 0:
            raise DisplayError(f"xdotool {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()[-200:]}")

    def _raw(self) -> tuple[int, int, bytes]:
        """Bytes a line, where the first line begins, and the whole file."""
        data = self._picture.read_bytes()
        header = _HEADER.unpack_from(data)
        if header[_BITS_PER_PIXEL] != 32:
            raise DisplayError(f"found {header[_BITS_PER_PIXEL]} bits a pixel, expected 32")
        return header[_BYTES_PER_LINE], header[0] + header[_COLOURS] * _COLOUR_BYTES, data

"""Draws the app's pictures from our mark: `python -m static.make_icons`, with the tests' tools installed.

They are committed, since browsers take no SVG for a home screen; so this runs only when the mark or a colour changes.
Chromium draws them:

    icon-192.png, icon-512.png          the mark on a rounded tile
    maskable-192.png, maskable-512.png  the tile to the edges, the mark within the circle that Android may cut out
    apple-touch-icon.png                the same for iOS, which rounds the corners itself
    badge-96.png                        white on nothing: Android's status bar uses its shape alone
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.chromium import CHROMIUM, FLAGS

IMAGES = Path(__file__).parent / "img"
ROAST, CREAM, CREMA = "#3b251a", "#fdf6ec", "#d89a4e"
# File, size in pixels, the tile's corner and the mark's width as parts of the size, what it is drawn with.
PICTURES = [
    ("icon-192.png", 192, 0.22, 0.62, ROAST),
    ("icon-512.png", 512, 0.22, 0.62, ROAST),
    ("maskable-192.png", 192, 0.0, 0.5, ROAST),
    ("maskable-512.png", 512, 0.0, 0.5, ROAST),
    ("apple-touch-icon.png", 180, 0.0, 0.62, ROAST),
    ("badge-96.png", 96, 0.0, 0.9, ""),
]


def page_of(mark: str, size: int, corner: float, width: float, tile: str) -> str:
    """A page that shows one picture and nothing else."""
    metal, drop = (CREAM, CREMA) if tile else ("#fff", "#fff")
    drawn = mark.replace("#7b6a5e", metal).replace("#b8762a", drop)
    drawn = re.sub(r"<svg ", f'<svg width="{size * width}" height="{size * width}" ', drawn, count=1)
    style = (
        f"display:grid;place-items:center;width:{size}px;height:{size}px;border-radius:{size * corner}px;"
        f"background:{tile or 'transparent'}"
    )
    return f'<body style="margin:0;background:transparent"><div style="{style}">{drawn}</div>'


def main() -> None:
    """Writes all of them."""
    mark = (IMAGES / "mark.svg").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, size, corner, width, tile in PICTURES:
            page = browser.new_page(viewport={"width": size, "height": size})
            page.set_content(page_of(mark, size, corner, width, tile))
            page.screenshot(path=IMAGES / name, omit_background=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()

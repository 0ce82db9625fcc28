"""Debian's Chromium, as every test that needs a browser starts it: quiet, and without calls to the Internet."""

from __future__ import annotations

from playwright.sync_api import expect

# Until what is waited for counts as missing: Playwright's own 5 s are too few where every processor is busy.
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

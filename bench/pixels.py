"""Claim clicked, desktop ready → first pixels in Chromium; against a bare join at guacd."""

from __future__ import annotations

import time

from bench import machine as rescue
from bench.figures import Row, percentile, spread
from bench.server import on_processor, server
from bench.wire import Guacd

CLAIMS = 25
_MARK = """() => {
  const [mark] = performance.getEntriesByName("first-pixels");
  return performance.timeOrigin + mark.startTime - Number(sessionStorage.getItem("claimed"));
}"""


def measure() -> list[Row]:
    found, joins = [], []
    with server() as one, rescue.simulated(one) as machine, on_processor(1), rescue.page(one) as page:
        for number in range(CLAIMS + 1):
            rescue.open_queue(page, one)
            session_id, _ = rescue.press(one, machine)
            page.wait_for_selector(f'li[data-session="{session_id}"][data-state=ready]')
            desktop = one.rows_tool("desktop", session=session_id)
            began = time.monotonic()
            user = Guacd(desktop["port"], desktop["connection_id"])
            user.wait_for_frame()
            joined = (time.monotonic() - began) * 1000
            user.close()
            page.click(f'li[data-session="{session_id}"] [data-action=claim]')
            page.wait_for_selector("html[data-first-frame=yes]", state="attached")
            took = page.evaluate(_MARK)
            rescue.end(one, machine, session_id)
            if number:  # the first fetches the page's files
                found.append(took)
                joins.append(joined)
    return [
        Row(
            "claim clicked → first pixels in the browser, p95", percentile(found, 0.95), 300, "ms",
            peer=f"bare join at guacd, to its first frame: {percentile(joins, 0.95):.0f} ms p95",
            detail={**spread(found), **spread(joins, "bare join")},
        )
    ]  # fmt: skip

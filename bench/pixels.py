"""Claim clicked, desktop ready → first pixels in Chromium; against a bare join at guacd."""

from __future__ import annotations

import time

from bench import machine as rescue
from bench.figures import Row, percentile, spread
from bench.server import server
from bench.wire import Guacd

CLAIMS = 20
# Milliseconds from the click to each step.
_STEPS = """() => {
  const since = (at) => at - Number(sessionStorage.getItem("claimed"));
  const here = (at) => since(performance.timeOrigin + at);
  const [mark] = performance.getEntriesByName("first-pixels");
  const [page] = performance.getEntriesByType("navigation");
  return {
    "claim answered": here(page.startTime), "page received": here(page.responseEnd),
    "tunnel asked": since(window.__tunnel.asked), "tunnel open": since(window.__tunnel.open),
    "guacd draws": since(window.__tunnel.drawn), "first pixels": here(mark.startTime),
  };
}"""


def measure() -> list[Row]:
    found: list[dict[str, float]] = []
    joins: list[float] = []
    with server() as one, rescue.simulated(one) as machine, rescue.page(one) as page:
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
            steps = page.evaluate(_STEPS)
            rescue.end(one, machine, session_id)
            if number:  # the first fetches the page's files
                found.append(steps)
                joins.append(joined)
    pixels = [steps["first pixels"] for steps in found]
    return [
        Row(
            "claim clicked → first pixels in the browser, p95", percentile(pixels, 0.95), 300, "ms",
            peer=f"bare join at guacd, to its first frame: {percentile(joins, 0.95):.0f} ms p95",
            detail={
                **spread(pixels),
                **spread(joins, "bare join"),
                **{f"median to: {step}": round(percentile([one[step] for one in found], 0.5)) for step in found[0]},
            },
        )
    ]  # fmt: skip

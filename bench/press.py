"""Help pressed → card on an open queue page, and → desktop held by the keeper; against a login by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from bench import machine as rescue
from bench.figures import Row, percentile, spread
from bench.server import server

PRESSES = 30


def measure() -> list[Row]:
    cards, recorded, readies, seen, by_hand = [], [], [], [], []
    with server() as one, rescue.simulated(one) as machine, rescue.page(one) as page:
        rescue.open_queue(page, one)
        for number in range(PRESSES + 1):
            session_id, pressed_at = rescue.press(one, machine)
            page.wait_for_function("id => window.__cards[id]?.shown && window.__cards[id]?.ready", arg=session_id)
            card = page.evaluate("id => window.__cards[id]", session_id)
            row = one.session(session_id)
            # A login by hand, with the same machine in the same state.
            took = rescue.login_by_hand(one.rows_tool("desktop", session=session_id))
            rescue.end(one, machine, session_id)
            if number:  # the first finds nothing warm, neither imports nor the browser
                cards.append(card["shown"] - pressed_at * 1000)
                recorded.append((moment(row["requested_at"]) - pressed_at) * 1000)
                readies.append(moment(row["ready_at"]) - pressed_at)
                seen.append(card["ready"] / 1000 - pressed_at)
                by_hand.append(took)
    return [
        Row(
            "help pressed → card on an open queue page, p95", percentile(cards, 0.95), 200, "ms",
            peer=f"press to the server's row alone: {percentile(recorded, 0.95):.0f} ms p95",
            detail={**spread(cards), **spread(recorded, "press to row")},
        ),
        Row(
            "help pressed → desktop held by the keeper, p95", percentile(readies, 0.95), 2, "s",
            peer=f"guacd started and logged in by hand: {percentile(by_hand, 0.95):.2f} s p95",
            detail={**spread(readies), **spread(seen, "ready on the page"), **spread(by_hand, "by hand")},
        ),
    ]  # fmt: skip


def moment(column: str) -> float:
    """A time in the database, which is UTC, as seconds since the epoch."""
    return datetime.fromisoformat(column).replace(tzinfo=UTC).timestamp()

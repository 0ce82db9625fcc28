"""What a measurement says: its figures, its limit, and under which load it was taken."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One line of the table: what was found, what it may be, and what it is compared with in the same run."""

    what: str
    found: float
    limit: float
    unit: str
    peer: str = ""
    at_least: bool = False  # the limit is a least value, not a greatest
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def spread(values: Sequence[float], name: str = "") -> dict[str, float]:
    """Median, p95, p99 and the worst, for a row's detail."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    prefix = f"{name} " if name else ""
    return {
        f"{prefix}n": len(values),
        **{prefix + key: round(percentile(values, share), 3) for key, share in shares.items()},
    }


def keep(name: str, rows: Sequence[Row]) -> None:
    """Writes a measurement's rows to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "name": name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processors": os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "rows": [{**asdict(row), "reached": row.reached} for row in rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def table(names: Sequence[str]) -> str:
    """The kept rows of these measurements as text."""
    lines = []
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            lines.append(f"{name:8} nothing was measured")
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        for row in document["rows"]:
            sign = "≥" if row["at_least"] else "≤"
            verdict = "reached" if row["reached"] else "MISSED"
            lines.append(
                f"{name:8} {row['what']:62} {row['found']:8.2f} {sign} {row['limit']:g} {row['unit']:5} {verdict}"
                + (f"   peer: {row['peer']}" if row["peer"] else "")
            )
    return "\n".join(lines)

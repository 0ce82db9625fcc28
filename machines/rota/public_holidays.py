"""Public holidays of a whole country, as the package `holidays` knows them."""

from __future__ import annotations

from datetime import date
from functools import lru_cache


def is_known(country: str) -> bool:
    """Whether there is a calendar for the country, by its two letters of ISO 3166."""
    import holidays  # takes its time

    return country in holidays.list_supported_countries(include_aliases=False)


@lru_cache(maxsize=256)
def public_holidays(country: str, year: int) -> frozenset[date]:
    """The days; none for a country without a calendar. Those of a region alone are not among them."""
    import holidays

    try:
        return frozenset(holidays.country_holidays(country, years=year, observed=True))
    except NotImplementedError:
        return frozenset()

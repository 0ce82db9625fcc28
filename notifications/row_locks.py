"""Changes many rows in one order, so that two who change some of the same wait for each other and never both.

PostgreSQL locks the rows of an UPDATE in the order in which it happens to find them: of two that overlap, one might be
broken off as a deadlock, and that might be an operator's claim. SQLite has one writer at a time.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet

from notifications.models import Delivery


def update(rows: QuerySet[Delivery], **values: Any) -> int:
    """`rows.update(**values)`, each row locked in the order of the keys; how many rows were changed."""
    if not connection.features.has_select_for_update:
        return rows.update(**values)
    with transaction.atomic():
        keys = list(rows.order_by("pk").select_for_update().values_list("pk", flat=True))
        return rows.filter(pk__in=keys).update(**values) if keys else 0


def delete_free(rows: QuerySet[Delivery], keys: list[UUID]) -> int:
    """Deletes those of the keys that nobody else is changing just now, in one short transaction; how many."""
    mine = rows.filter(pk__in=keys)
    if not connection.features.has_select_for_update_skip_locked:
        return mine.delete()[0]
    with transaction.atomic():
        free = list(mine.select_for_update(skip_locked=True).values_list("pk", flat=True))
        return mine.filter(pk__in=free).delete()[0] if free else 0


def update_free(rows: QuerySet[Delivery], keys: list[UUID], **values: Any) -> int:
    """The same for those of the keys that nobody else is changing just now; nobody is waited for."""
    mine = rows.filter(pk__in=keys)
    if not connection.features.has_select_for_update_skip_locked:
        return mine.update(**values)
    with transaction.atomic():
        free = list(mine.select_for_update(skip_locked=True).values_list("pk", flat=True))
        return mine.filter(pk__in=free).update(**values) if free else 0

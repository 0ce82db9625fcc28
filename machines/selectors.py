"""What reads the fleet's rows, always within what the asking person may see."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet

from machines.models import Absence, Fleet, Machine, Operator, User


def operator_of(user: User) -> Operator | None:
    """The operator that a signed-in, active person is; None for all others."""
    if not user.is_authenticated or not user.is_active:
        return None
    return Operator.objects.select_related("user").filter(user=user).first()


def fleets_of(user: User) -> QuerySet[Fleet]:
    """The fleets a person belongs to; superusers get no more than that here."""
    if not user.is_authenticated or not user.is_active:
        return Fleet.objects.none()
    return Fleet.objects.filter(operators__user=user)


def machines_for(user: User, *, search: str = "") -> QuerySet[Machine]:
    """The machines of the person's fleets, whose serial, name, site, city or model holds every word of `search`."""
    machines = Machine.objects.filter(fleet__in=fleets_of(user)).select_related("fleet", "site", "model")
    for word in search.split():
        machines = machines.filter(
            Q(serial__icontains=word)
            | Q(name__icontains=word)
            | Q(site__name__icontains=word)
            | Q(site__city__icontains=word)
            | Q(model__name__icontains=word)
        )
    return machines


def colleagues(fleet: Fleet) -> QuerySet[User]:
    """The active people who may take a rescue of this fleet."""
    return User.objects.filter(is_active=True, operator__fleets=fleet).order_by("first_name", "last_name", "username")


def present(users: QuerySet[User], *, now: datetime) -> QuerySet[User]:
    """Those of them who have not said to be away, by their switch or an absence; working hours are the rota's."""
    is_on = Q(operator__is_available=True) | Q(operator__away_until__lte=now)
    absences = Absence.objects.filter(operator__user=OuterRef("pk"), starts_at__lte=now, ends_at__gt=now)
    return users.filter(is_on, ~Exists(absences))

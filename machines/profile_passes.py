"""The worker's pass over profiles: makes those that are wished for, and hands them to telemetry until it takes them.

Rows are the truth: a pass compares wish and fact, so whatever died half-way is taken up again. A profile is delivered
at least once; drivers know one that they have seen by its certificate's serial. A driver that carries no keys
(`InvitingDriver`) gets no profile: it invites the machine to enrol, and the wish is fulfilled when that has.
Telemetry may be slow, so no rescue waits for these passes: the worker has a thread for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from machines import enrolment, identities, services
from machines.errors import FleetError, IdentityError
from machines.models import EnrolmentCode, Machine, ProfileDelivery, User
from machines.telemetry import builtin
from machines.telemetry.base import (
    Invitation,
    InvitingDriver,
    MachineUnknown,
    Profile,
    TelemetryDriver,
    TelemetryError,
    get_driver,
)

logger = logging.getLogger(__name__)

_FIRST_DELAY = timedelta(seconds=5)
_LONGEST_DELAY = timedelta(minutes=15)
# A machine that was invited may be waiting for its code.
_LONGEST_DELAY_OF_INVITATION = timedelta(minutes=1)
_TIDY_EVERY = timedelta(seconds=30)
_A_PASS = 20  # so many profiles a pass: the worker has rescues to look after


def request_profile(machine: Machine, *, user: User | None) -> ProfileDelivery:
    """The wish that a profile, with a key made here, goes to the machine by telemetry; one at a time is enough.

    Raises NoVpn, and IdentityError for a machine that is admitted nowhere.
    """
    enrolment.require_vpn()
    identities.require_admissible(machine)
    found = open_delivery(machine)
    if found is None:
        try:
            with transaction.atomic():
                found = ProfileDelivery.objects.create(machine=machine, requested_by=user)
                services.record_security_event("profile_requested", machine=machine, user=user)
        except IntegrityError:  # somebody else was faster
            found = open_delivery(machine) or ProfileDelivery.objects.filter(machine=machine).defer("profile")[0]
    return found


def open_delivery(machine: Machine) -> ProfileDelivery | None:
    """The delivery that is on its way, if any; without the profile itself."""
    return _open().filter(machine=machine).defer("profile").first()


@dataclass
class ProfilePasses:
    """What one worker thread does about profiles."""

    now: Callable[[], datetime] = timezone.now
    driver: Callable[[], TelemetryDriver] = get_driver
    _tidied_at: datetime | None = None

    def run(self) -> None:
        """Looks at every delivery that is due, and erases what has been here long enough. Raises without database."""
        due = _open().filter(next_try_at__lte=self.now()).order_by("next_try_at", "pk").values_list("pk", flat=True)
        for pk in list(due[:_A_PASS]):
            try:
                if not self._look_at(pk):
                    break  # the line is down: the others would wait as long for nothing, and are due at the next pass
            except (OperationalError, InterfaceError):
                raise
            except Exception:
                logger.exception("Could not deliver a profile (delivery %s); a later pass tries again", pk)
        now = self.now()
        if self._tidied_at is None or now - self._tidied_at >= _TIDY_EVERY:
            self._tidied_at = now
            enrolment.forget_answers(now=now)
            builtin.forget_stale(now=now)

    def _look_at(self, pk: int) -> bool:
        """Whether telemetry works, as far as one delivery tells."""
        delivery = self._take(pk)
        if delivery is None:
            return True
        try:
            driver = self.driver()
            if isinstance(driver, InvitingDriver):
                self._invite(delivery, driver)
            else:
                self._deliver(delivery, driver)
        except FleetError as error:
            self._give_up(delivery, str(error))
        except TelemetryError as error:
            logger.warning("Telemetry did not take the profile of %s: %s", delivery.machine.serial, error)
            if error.permanent:
                self._give_up(delivery, str(error))
            else:
                _open().filter(pk=pk).update(last_error=str(error)[:200])
                return isinstance(error, MachineUnknown)
        return True

    def _invite(self, delivery: ProfileDelivery, driver: InvitingDriver) -> None:
        machine, user = delivery.machine, delivery.requested_by

        def issue() -> tuple[str, datetime]:
            code = enrolment.issue_code(machine, user=user, now=self.now())
            return code.text, code.expires_at

        # The wish's row and when it was made: no other wish has both, of another installation in the account neither.
        number = f"{delivery.pk}-{delivery.requested_at:%Y%m%d%H%M%S%f}"
        invitation = Invitation(number, enrolment.portal_address(), issue)
        used = EnrolmentCode.objects.filter(machine=machine, used_at__gte=delivery.requested_at)
        enrolled = used.select_related("identity").defer("answer").order_by("-used_at").first()
        serial = enrolled.identity.serial if enrolled and enrolled.identity else ""
        identities.require_admissible(machine)
        if enrolled is None:
            driver.invite(machine, invitation)
            _open().filter(pk=delivery.pk).update(last_error="")
        else:
            driver.end_invitation(machine, invitation, profile_version=serial)
            self._delivered(delivery, serial)

    def _deliver(self, delivery: ProfileDelivery, driver: TelemetryDriver) -> None:
        profile = self._made(delivery)
        driver.deliver_profile(delivery.machine, profile)
        self._delivered(delivery, profile.identity_serial)

    def _delivered(self, delivery: ProfileDelivery, serial: str) -> None:
        with transaction.atomic():
            if _open().filter(pk=delivery.pk).update(delivered_at=self.now(), profile=None, last_error=""):
                services.record_security_event("profile_delivered", machine=delivery.machine, detail={"serial": serial})

    def _take(self, pk: int) -> ProfileDelivery | None:
        """The delivery, if it is still due: its next try is moved first, so no other worker takes it meanwhile."""
        now = self.now()
        row = _open().filter(pk=pk, next_try_at__lte=now).select_related("machine__fleet", "requested_by").first()
        if row is None:
            return None
        longest = _LONGEST_DELAY if row.profile or row.last_error else _LONGEST_DELAY_OF_INVITATION
        delay = min(_FIRST_DELAY * 2 ** min(row.attempts, 10), longest)
        mine = _open().filter(pk=pk, attempts=row.attempts, next_try_at=row.next_try_at)
        return row if mine.update(attempts=F("attempts") + 1, next_try_at=now + delay) else None

    def _made(self, delivery: ProfileDelivery) -> Profile:
        """The profile of this delivery, made at the first try. Raises IdentityError where it can never go out."""
        with transaction.atomic():
            row = ProfileDelivery.objects.select_for_update(of=("self",)).get(pk=delivery.pk)
            machine = Machine.objects.select_related("fleet").get(pk=delivery.machine_id)
            identities.require_admissible(machine)
            if row.identity is None or row.profile is None:
                identity = identities.issue_identity(machine, user=delivery.requested_by, now=self.now())
                row.identity, row.profile = identity, identities.hand_over(identity, now=self.now())
                row.save(update_fields=["identity", "profile"])
            elif row.identity.revoked_at:
                raise IdentityError(f"The identity of {machine.serial} was revoked meanwhile.")
            delivery.identity = row.identity
            return Profile(identity_serial=row.identity.serial, text=row.profile)

    def _give_up(self, delivery: ProfileDelivery, words: str) -> None:
        with transaction.atomic():
            failed = _open().filter(pk=delivery.pk)
            if failed.update(failed_at=self.now(), profile=None, last_error=words[:200]):
                row = ProfileDelivery.objects.select_related("identity__machine__fleet").get(pk=delivery.pk)
                if row.identity:
                    identities.revoke(row.identity, reason="its profile was not delivered", now=self.now())
                services.record_security_event(
                    "profile_not_delivered", machine=delivery.machine, detail={"words": words[:200]}
                )


def _open() -> QuerySet[ProfileDelivery]:
    return ProfileDelivery.objects.filter(delivered_at=None, failed_at=None)

"""The admin: every page opens, no page shows a secret, and what a manager changes leaves its record."""

from __future__ import annotations

import re
from datetime import time, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from machines import identities
from machines import services as fleet_services
from machines.models import (
    EnrolmentCode,
    GatewayIdentity,
    KeptAnswer,
    KeptProfile,
    Machine,
    MachineToken,
    Operator,
    ProfileDelivery,
    SecurityEvent,
    Shift,
    TunnelEnding,
    User,
    VpnAddress,
    VpnAuthority,
    VpnConnection,
    VpnIdentity,
)
from notifications.models import (
    Delivery,
    PushDevice,
    SnsAnnouncement,
    SnsCertificate,
    SnsConfirmation,
    SnsMessage,
)
from sessions import attachments, services
from sessions.errors import NotAllowed
from sessions.models import (
    Attachment,
    ConnectionProfile,
    Gateway,
    GuacamoleConnection,
    Pool,
    Press,
    RdpCredential,
    SupportSession,
)
from sessions.states import EndReason
from tests.sessions.clients import client_of, manager_of_north
from tests.sessions.rescues import fleet, machine, person, press

pytestmark = pytest.mark.django_db

# Each of these is in the rows below; none of them may be on a page.
PASSWORD, CONNECTION_ID = "canary-7Yk2", "$canary-connection-id"
OURS = [model for name in ("machines", "support", "notifications") for model in apps.get_app_config(name).get_models()]
REGISTERED = [model for model in OURS if model in admin.site._registry]
INLINE = {inline.model for one in admin.site._registry.values() for inline in one.inlines}


def name_of(model: Any) -> str:
    return f"{model._meta.app_label}_{model._meta.model_name}"


@pytest.fixture
def manager() -> Client:
    return client_of(User.objects.create_superuser("root"))


@pytest.fixture
def full() -> dict[str, str]:
    """At least one row of everything, and the secrets that no page may show, by what they are."""
    session = services.claim(press(), user=person("Alice"))
    RdpCredential.objects.filter(session=session).update(username="canary-user-3Qx")
    ticket = attachments.issue_ticket(session, user=person("Alice"), role="controller")
    gateway = Gateway.objects.create(session=session, driver="local", host="127.0.0.1", port=4822)
    GuacamoleConnection.objects.create(
        session=session, gateway=gateway, hostname="127.64.0.1", port=3389, connection_id=CONNECTION_ID
    )
    Pool.objects.create(fleet=session.fleet, size=1, reason="This fleet's own number.")
    ConnectionProfile.objects.create(name="North's", fleet=fleet())
    token = fleet_services.issue_token(session.machine)
    identity = identities.issue_identity(session.machine)
    authority = VpnAuthority.objects.get()
    VpnConnection.objects.create(
        identity=identity, machine=session.machine, client_id=7, remote_address="192.0.2.7", remote_port=1194
    )
    identities.end_tunnel_wish(session.machine, "rescue closed")
    GatewayIdentity.objects.create(
        attempt_id="a1", address="10.77.0.2", serial="b2", sha256="c3", key_sha256="d4", expires_at=timezone.now()
    )
    EnrolmentCode.objects.create(
        machine=session.machine,
        code_sha256="canary-code",
        expires_at=timezone.now() + timedelta(minutes=15),
        answer="canary-answer",
    )
    Shift.objects.create(
        fleet=session.fleet, operator=person("Alice").operator, weekdays="01234", starts=time(8), ends=time(17)
    )
    subscription = apps.get_model("webpush", "SubscriptionInfo").objects.create(
        browser="Chrome",
        endpoint="https://fcm.googleapis.com/canary-endpoint",
        p256dh="canary-point",
        auth="canary-auth",
    )
    PushDevice.objects.create(
        user=person("Alice"), subscription=subscription, endpoint_sha256="canary-digest", name="p"
    )
    Delivery.objects.create(
        fleet=session.fleet, subject=session.pk, kind="asked", recipient=person("Alice"), channel="web_push",
        device=PushDevice.objects.get(), device_name="p", key="k", title="Help", next_try_at=timezone.now(),
        expires_at=timezone.now(),
    )  # fmt: skip
    SnsAnnouncement.objects.create(key="k", subject=session.pk)
    SnsCertificate.objects.create(url="https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-7.pem")
    SnsConfirmation.objects.create(kind="subscribe", topic="arn", message_id="m", token="canary-confirmation-token")
    SnsMessage.objects.create(message_id="m")
    KeptAnswer.objects.create(machine=session.machine, source="http", answer={"candidates": []})
    ProfileDelivery.objects.create(machine=session.machine, identity=identity, profile="canary-profile-on-its-way")
    KeptProfile.objects.create(
        machine=session.machine, identity_serial=identity.serial, profile="canary-profile-kept-here"
    )
    return {
        "password": PASSWORD,
        "username": "canary-user-3Qx",
        "connection id": CONNECTION_ID,
        "ticket": ticket,
        "ticket's fingerprint": Attachment.objects.get().ticket_sha256,
        "token's secret": token.partition(".")[2],
        "token's fingerprint": MachineToken.objects.get().secret_sha256,
        "request's digest": Press.objects.get().request_digest,
        "code's fingerprint": "canary-code",
        "code's answer": "canary-answer",
        "profile on its way": "canary-profile-on-its-way",
        "kept profile": "canary-profile-kept-here",
        "browser's address": "canary-endpoint",
        "browser's keys": "canary-point",
        "browser's secret": "canary-auth",
        "address's fingerprint": "canary-digest",
        "confirmation's token": "canary-confirmation-token",
        **{
            f"{what} {name}": getattr(row, name).splitlines()[1]
            for what, row, names in (
                ("authority's", authority, ("key", "server_key", "tls_crypt_key")),
                ("identity's", identity, ("private_key", "tls_crypt_key")),
            )
            for name in names
        },
    }


def test_every_model_is_managed_but_the_one_off_logins() -> None:
    assert set(OURS) - set(REGISTERED) - INLINE == {RdpCredential}


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_every_page_of_a_model_opens_and_shows_no_secret(manager: Client, full: dict[str, str], model: Any) -> None:
    listing = reverse(f"admin:{name_of(model)}_changelist")
    row = model._default_manager.first()
    assert row is not None, "no row to look at"
    addresses = [
        listing,
        f"{listing}?q=canary",
        reverse(f"admin:{name_of(model)}_change", args=[row.pk]),
        reverse(f"admin:{name_of(model)}_history", args=[row.pk]),
    ]
    page = manager.get(listing).content.decode()
    addresses += {listing + query.replace("&amp;", "&") for query in re.findall(r'href="(\?[^"]+)"', page)}
    if admin.site._registry[model].has_add_permission(manager_request()):
        addresses.append(reverse(f"admin:{name_of(model)}_add"))
    for address in addresses:
        response = manager.get(address)
        assert response.status_code == 200, address
        for what, secret in full.items():
            assert secret not in response.content.decode(), f"{what} on {address}"


def manager_request() -> Any:
    request = RequestFactory().get("/admin/")
    request.user = User.objects.get(username="root")
    return request


@pytest.mark.parametrize(
    "model",
    [
        *(SupportSession, SecurityEvent, Press, GuacamoleConnection, Gateway, Attachment),
        *(VpnAuthority, VpnIdentity, VpnConnection, VpnAddress, TunnelEnding, EnrolmentCode),
        *(ProfileDelivery, KeptProfile, KeptAnswer, GatewayIdentity),
        *(Delivery, PushDevice, SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage),
    ],
)
def test_the_record_cannot_be_changed_by_hand(manager: Client, full: dict[str, str], model: Any) -> None:
    row = model._default_manager.first()
    before = model._default_manager.values().get(pk=row.pk)
    assert manager.get(reverse(f"admin:{name_of(model)}_add")).status_code == 403
    assert manager.post(reverse(f"admin:{name_of(model)}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert manager.post(reverse(f"admin:{name_of(model)}_change", args=[row.pk]), {}).status_code == 403
    assert model._default_manager.values().get(pk=row.pk) == before


def act(client: Client, model: Any, action: str, row: Any, **kwargs: Any) -> Any:
    body = {"action": action, "_selected_action": [str(row.pk)]}
    return client.post(reverse(f"admin:{name_of(model)}_changelist"), body, **kwargs)


def test_token_is_shown_once_works_and_is_recorded(manager: Client) -> None:
    found = machine()
    answer = act(manager, Machine, "issue_tokens", found)
    (token,) = re.findall(r"<code>(\w{16}\.[\w-]{40,})</code>", answer.content.decode())
    assert "no-store" in answer["Cache-Control"]
    assert fleet_services.authenticate_machine(token, peer_address=found.vpn_address) == found
    assert token.partition(".")[2] not in manager.get(reverse("admin:machines_machine_changelist")).content.decode()
    assert not any(token.partition(".")[2] in morsel.value for morsel in manager.cookies.values())
    assert SecurityEvent.objects.get(kind="token_issued").user == User.objects.get(username="root")
    assert LogEntry.objects.get().object_id == str(found.pk)


def test_revoked_token_works_no_more_and_is_recorded(manager: Client) -> None:
    found = machine()
    token = fleet_services.issue_token(found)
    act(manager, MachineToken, "revoke", MachineToken.objects.get())
    with pytest.raises(Exception, match="not valid"):
        fleet_services.authenticate_machine(token, peer_address=found.vpn_address)
    assert SecurityEvent.objects.get(kind="token_revoked").user == User.objects.get(username="root")
    assert LogEntry.objects.count() == 1


def test_revoked_identity_is_recorded_with_who_did_it(manager: Client, full: dict[str, str]) -> None:
    act(manager, VpnIdentity, "revoke", VpnIdentity.objects.get())
    assert VpnIdentity.objects.get().revoked_at
    assert SecurityEvent.objects.get(kind="identity_revoked").user == User.objects.get(username="root")
    assert LogEntry.objects.count() == 1


def test_machine_is_frozen_and_unfrozen_by_a_manager(manager: Client) -> None:
    found = machine()
    for action, is_frozen in (("freeze", True), ("unfreeze", False)):
        act(manager, Machine, action, found)
        found.refresh_from_db()
        assert bool(found.frozen_at) == is_frozen
        event = SecurityEvent.objects.filter(kind__startswith="machine_").latest("id")
        assert event.user is not None
        assert event.user.username == "root"
    assert LogEntry.objects.count() == 2


def form_of(client: Client, address: str) -> dict[str, Any]:
    """What a browser would send back unchanged."""
    response = client.get(address)
    form = response.context["adminform"].form
    values = {}
    for name, field in form.fields.items():
        value = form.get_initial_for_field(field, name)
        value = field.prepare_value(value) if hasattr(field, "prepare_value") else value
        if isinstance(value, bool):
            values.update({name: "on"} if value else {})
        elif value is not None and "password" not in name and not hasattr(value, "isoformat"):
            values[name] = value
    for inline in response.context["inline_admin_formsets"]:
        management = inline.formset.management_form
        values.update({f"{management.prefix}-{name}": management[name].value() for name in management.fields})
    return {name: value for name, value in values.items() if value is not None}


def test_switching_a_machine_off_is_recorded_with_who_did_it(manager: Client) -> None:
    found = machine()
    address = reverse("admin:machines_machine_change", args=[found.pk])
    values = form_of(manager, address)
    del values["is_active"]
    assert manager.post(address, values).status_code == 302
    found.refresh_from_db()
    assert not found.is_active
    event = SecurityEvent.objects.get(kind="machine_deactivated")
    assert (event.machine, event.user, event.address) == (found, User.objects.get(username="root"), "127.0.0.1")
    assert LogEntry.objects.count() == 1


def test_another_role_is_recorded(manager: Client) -> None:
    operator = Operator.objects.get(user=person("Alice"))
    address = reverse("admin:machines_operator_change", args=[operator.pk])
    values = {**form_of(manager, address), "role": "supervisor"}
    values["fleets"] = [fleet().pk]
    assert manager.post(address, values).status_code == 302
    assert SecurityEvent.objects.get(kind="operator_changed").detail["role"] == "supervisor"


def test_machine_at_another_fleets_site_is_refused_in_words(manager: Client) -> None:
    found, other = machine(), machine("B1", of="South")
    address = reverse("admin:machines_machine_change", args=[found.pk])
    answer = manager.post(address, {**form_of(manager, address), "site": other.site_id})
    assert answer.status_code == 200 and "belongs to South" in answer.content.decode()


def test_superuser_ends_a_rescue_by_force_without_being_an_operator(manager: Client) -> None:
    session = press()
    act(manager, SupportSession, "end_by_force", session)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == ("closing", "forced")
    assert not RdpCredential.objects.filter(session=session).exists()
    assert LogEntry.objects.count() == 1
    assert session.closed_by == User.objects.get(username="root")


def test_operators_who_are_no_staff_have_no_admin() -> None:
    client = client_of(person("Alice"))
    for model in REGISTERED:
        assert client.get(reverse(f"admin:{name_of(model)}_changelist")).status_code in (302, 403)


def test_connection_ended_long_ago_has_its_record(manager: Client, full: dict[str, str]) -> None:
    GuacamoleConnection.objects.update(connection_id=None, closed_at=timezone.now(), status=519, detail="Cable pulled")
    page = manager.get(reverse("admin:support_guacamoleconnection_changelist")).content.decode()
    assert "Cable pulled" in page and "519" in page


def test_new_password_is_recorded_without_itself(manager: Client) -> None:
    alice = person("Alice")
    address = reverse("admin:auth_user_password_change", args=[alice.pk])
    values = {"usable_password": "true", "password1": "canary-new-9Lw4", "password2": "canary-new-9Lw4"}
    assert manager.post(address, values).status_code == 302
    alice.refresh_from_db()
    assert alice.check_password("canary-new-9Lw4")
    event = SecurityEvent.objects.get(kind="user_changed")
    assert event.detail == {"user": "alice", "changed": ["password"]}
    assert "canary-new" not in LogEntry.objects.get().change_message


@pytest.fixture
def fleet_manager() -> Client:
    """Fiona manages the fleet North, with every right but a superuser's."""
    return client_of(manager_of_north())


def test_manager_of_one_fleet_finds_nothing_of_another(fleet_manager: Client, full: dict[str, str]) -> None:
    other = services.claim(press("South-only-1", of="South"), user=person("Charlie", of="South"))
    pages = {
        reverse("admin:machines_machine_change", args=[other.machine_id]): "machine",
        reverse("admin:machines_fleet_change", args=[other.fleet_id]): "fleet",
        reverse("admin:support_supportsession_change", args=[other.pk]): "rescue",
        reverse("admin:machines_user_change", args=[other.operator_id]): "person",
    }
    for url, what in pages.items():
        assert fleet_manager.get(url).status_code == 302, what  # Django's "does not exist", to the index
    for model in REGISTERED:
        text = fleet_manager.get(reverse(f"admin:{name_of(model)}_changelist")).content.decode()
        assert "South" not in text, model
    assert "A1" in fleet_manager.get(reverse("admin:machines_machine_changelist")).content.decode()


def test_manager_cannot_put_a_machine_into_another_fleet(fleet_manager: Client) -> None:
    known = machine()
    values = {"serial": "N9", "fleet": fleet("South").pk, "site": known.site_id, "model": known.model_id}

    answer = fleet_manager.post(
        reverse("admin:machines_machine_add"), {**values, "vpn_address": "127.99.0.9", "is_active": "on"}
    )

    assert answer.status_code == 200
    assert "fleet" in answer.context["adminform"].form.errors
    assert not Machine.objects.filter(serial="N9").exists()


def test_manager_gives_nobody_rights_and_changes_no_superuser(fleet_manager: Client) -> None:
    alice, root = person("Alice"), User.objects.create_superuser("root2")
    Operator.objects.create(user=root).fleets.add(fleet())

    fleet_manager.post(
        reverse("admin:machines_user_change", args=[alice.pk]), {"username": "alice", "is_superuser": "on"}
    )
    alice.refresh_from_db()

    assert not alice.is_superuser
    assert fleet_manager.post(
        reverse("admin:auth_user_password_change", args=[root.pk]), {"password1": "x" * 14, "password2": "x" * 14}
    ).status_code in (302, 403)
    assert not User.objects.get(pk=root.pk).has_usable_password()


def test_manager_cannot_become_somebody_who_also_works_elsewhere(fleet_manager: Client) -> None:
    both = person("Olga")
    both.operator.fleets.add(fleet("South"))

    fleet_manager.post(
        reverse("admin:auth_user_password_change", args=[both.pk]), {"password1": "x" * 14, "password2": "x" * 14}
    )
    fleet_manager.post(reverse("admin:machines_operator_change", args=[both.operator.pk]), {"role": "operator"})
    fleet_manager.post(reverse("admin:machines_operator_delete", args=[both.operator.pk]), {"post": "yes"})

    assert not User.objects.get(pk=both.pk).check_password("x" * 14)
    assert Operator.objects.get(user=both).fleets.count() == 2


def test_manager_makes_no_connection_profile_for_all_tenants(fleet_manager: Client) -> None:
    values = {"name": "Everywhere", "security": "any", "color_depth": 24, "width": 1024, "height": 768, "dpi": 96}

    everywhere = fleet_manager.post(reverse("admin:support_connectionprofile_add"), values)
    assert "fleet" in everywhere.context["adminform"].form.errors

    fleet_manager.post(reverse("admin:support_connectionprofile_add"), {**values, "fleet": fleet().pk})
    assert ConnectionProfile.objects.get().fleet == fleet()


def test_manager_ends_rescues_of_the_own_fleet_by_force_and_no_others(fleet_manager: Client) -> None:
    own, other = press(), press("B1", of="South")
    act(fleet_manager, SupportSession, "end_by_force", own)
    act(fleet_manager, SupportSession, "end_by_force", other)
    own.refresh_from_db()
    other.refresh_from_db()
    assert (own.end_reason, other.end_reason) == ("forced", None)


@pytest.mark.parametrize(
    "who",
    [
        {"is_staff": True},  # without the right
        {"is_superuser": True, "is_active": False},
        {},
    ],
)
def test_force_is_for_supervisors_and_managers(who: dict[str, bool]) -> None:
    somebody = person("Somebody")
    User.objects.filter(pk=somebody.pk).update(**who)
    for user in (User.objects.get(pk=somebody.pk), person("Sue", of="South", role="supervisor")):
        with pytest.raises(NotAllowed, match="Only a supervisor or a manager of the fleet"):
            services.close(press(), user=user, outcome=EndReason.FORCED)


def test_who_may_look_at_a_fleet_sees_why_it_has_so_many_gateways_ready(
    fleet_manager: Client, full: dict[str, str]
) -> None:
    User.objects.get(username="fiona").user_permissions.set(Permission.objects.filter(codename="view_fleet"))
    page = fleet_manager.get(reverse("admin:machines_fleet_change", args=[Pool.objects.get().fleet_id]))
    assert "own number." in page.content.decode()

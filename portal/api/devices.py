"""The browsers that one gets messages in: each person's own, and nobody else's (another's are 404)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.http import Http404
from drf_spectacular.drainage import set_override
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from machines.api.documents import MAX_ID, NothingSerializer, PersonalView
from machines.api.documents import problem_responses as problems
from machines.api.fields import StrictSerializer, Text
from machines.api.problems import Problem, problem_of
from machines.api.public import person_of
from machines.api.throttles import PersonThrottle
from notifications import subscriptions
from notifications.errors import NotificationError, SubscriptionRefused, SubscriptionTaken, TooManyDevices
from notifications.models import MAX_NAME_CHARS, PushDevice

# What is one word of a subscription: no space, nothing that is not ASCII.
_WORD = r"[!-~]+"
# Printable, and not only blanks.
_NAME = r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*"
_NAME_IN_SCHEMA = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"


class DeviceSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A browser. Its endpoint is known to nobody but the server: who has it could send to it."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    fingerprint = serializers.CharField(help_text="The endpoint's SHA-256: by it a browser finds itself.")
    created_at = serializers.DateTimeField()
    last_sent_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")
    last_problem = serializers.CharField(allow_blank=True, help_text="A sentence, while it lasts.")
    disabled_at = serializers.DateTimeField(allow_null=True, help_text="Since when nothing is sent to it.")


class DevicesSerializer(serializers.Serializer):  # type: ignore[type-arg]
    results = DeviceSerializer(many=True)


class NameField(Text):
    """What one calls a device: something that can be seen."""

    def __init__(self, **kwargs: Any) -> None:
        expected = f"1 to {MAX_NAME_CHARS} characters of text, not only blanks"
        super().__init__(longest=MAX_NAME_CHARS, shortest=1, pattern=_NAME, expected=expected, **kwargs)
        schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": _NAME_IN_SCHEMA}
        set_override(self, "field", schema)


class AddSerializer(StrictSerializer):
    """A push subscription, as the browser gives it."""

    endpoint = Text(longest=500, shortest=1, pattern=_WORD, expected="an address of 1 to 500 characters")
    p256dh = Text(longest=100, shortest=1, pattern=_WORD, expected="a public key in base64url")
    auth = Text(longest=50, shortest=1, pattern=_WORD, expected="a secret in base64url")
    browser = Text(longest=100, default="")
    name = NameField()


class ChangeSerializer(StrictSerializer):
    name = NameField(required=False)


class PushTestThrottle(PersonThrottle):
    """A few tries in a row, and no flood to a push service that would then refuse the real ones."""

    scope = "push-tests"
    rate = "10/min"


class DevicesThrottle(PersonThrottle):
    """Far more than a person adds, far fewer than rows that could hurt."""

    scope = "push-devices"
    rate = "60/min"


def document(device: PushDevice) -> dict[str, Any]:
    """A device in JSON values."""
    return {
        "id": device.pk,
        "name": device.name,
        "fingerprint": device.endpoint_sha256,
        "created_at": device.created_at.isoformat(),
        "last_sent_at": device.last_sent_at.isoformat() if device.last_sent_at else None,
        "last_problem": device.last_problem,
        "disabled_at": device.disabled_at.isoformat() if device.disabled_at else None,
    }


@problem_of.register
def _(error: NotificationError) -> Problem:
    # A conflict with what is there already, or with what this installation can do.
    return Problem(409, error.code, str(error))


@problem_of.register
def _(error: SubscriptionRefused) -> Problem:
    return Problem(400, error.code, str(error))


@problem_of.register(SubscriptionTaken)
@problem_of.register(TooManyDevices)
def _(error: NotificationError) -> Problem:
    return Problem(409, error.code, str(error))


@contextmanager
def own(device_id: int) -> Iterator[None]:
    """Makes 404 of a device that is not one's own: it is no different from one that never was."""
    if device_id > MAX_ID:
        raise Http404
    try:
        yield
    except PushDevice.DoesNotExist:
        raise Http404 from None


class DevicesView(PersonalView):
    """One's own devices, the oldest first."""

    def get_throttles(self) -> list[Any]:
        return [DevicesThrottle()] if self.request.method == "POST" else []

    @extend_schema(operation_id="devices", responses={200: DevicesSerializer, **problems(403)})
    def get(self, request: Request) -> Response:
        return Response({"results": [document(one) for one in subscriptions.devices_of(person_of(request))]})

    @extend_schema(
        operation_id="addDevice",
        request=AddSerializer,
        responses={201: DeviceSerializer, **problems(400, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        """Makes this browser one's own device; whoever had messages in it before has them there no more."""
        given = AddSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        agent = request.headers.get("User-Agent", "")
        device = subscriptions.subscribe(person_of(request), user_agent=agent, **given.validated_data)
        return Response(document(device), status=201)


class DeviceView(PersonalView):
    """One of one's own devices."""

    http_method_names = ["patch", "delete"]

    @extend_schema(
        operation_id="renameDevice",
        request=ChangeSerializer,
        responses={200: DeviceSerializer, **problems(400, 403, 404, 413, 415)},
    )
    def patch(self, request: Request, device_id: int) -> Response:
        """Gives it another name."""
        given = ChangeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        user, name = person_of(request), given.validated_data.get("name")
        with own(device_id):
            device = (
                subscriptions.rename(user, device_id, name)
                if name is not None
                else subscriptions.devices_of(user).get(pk=device_id)
            )
        return Response(document(device))

    @extend_schema(operation_id="removeDevice", request=None, responses={204: None, **problems(403, 404)})
    def delete(self, request: Request, device_id: int) -> Response:
        """Ends messages to it."""
        with own(device_id):
            subscriptions.remove(person_of(request), device_id)
        return Response(status=204)


class DeviceTestView(PersonalView):
    """A message to one of one's own devices, to see whether it arrives."""

    http_method_names = ["post"]
    throttle_classes = [PushTestThrottle]

    @extend_schema(
        operation_id="testDevice",
        request=NothingSerializer,
        responses={202: NothingSerializer, **problems(400, 403, 404, 409, 415, 429)},
    )
    def post(self, request: Request, device_id: int) -> Response:
        """Puts it in the outbox; the device's own entry says what became of it."""
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        with own(device_id):
            try:
                subscriptions.send_test(person_of(request), device_id)
            except SubscriptionRefused as error:
                raise Problem(409, "device_disabled", str(error)) from error
        return Response({}, status=202)

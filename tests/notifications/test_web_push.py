"""One push: what the browser reads of it, and what the push service does."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from notifications.channels import web_push
from notifications.channels.base import DeliveryError, Parcel
from notifications.channels.web_push import MAX_PAYLOAD_BYTES, TIMEOUT_S, WebPush, payload_of, topic_of
from tests.fakes.push_service import Answer, Browser, PushService, decode
from tests.ports import refusing_port


def parcel_for(browser: Browser | None = None) -> Parcel:
    now = timezone.now()
    subject = uuid4()
    parcel = Parcel(
        id=uuid4(), kind="asked", title="Help at Stazione Centrale", body="A1, Milano", url=f"/sessions/{subject}/",
        tag=f"rescue-{subject.hex}", subject=str(subject), actions=("claim", "open"), created_at=now,
        expires_at=now + timedelta(minutes=10),
    )  # fmt: skip
    if browser is None:
        return parcel
    return replace(parcel, endpoint=browser.endpoint, p256dh=browser.p256dh, auth=browser.auth)


@given(title=st.text(max_size=200), body=st.text(max_size=3000))
@settings(max_examples=60, deadline=None)
def test_payload_fits_whatever_the_words_are(title: str, body: str) -> None:
    title, body = (text.encode(errors="replace").decode() for text in (title, body))  # no half characters in rows
    payload = payload_of(replace(parcel_for(), title=title, body=body))
    assert len(payload) <= MAX_PAYLOAD_BYTES
    read = json.loads(payload)
    assert read["url"].startswith("/sessions/") and read["actions"] == ["claim", "open"]
    for words, found in ((title, read["title"]), (body, read["body"])):
        assert found == words or found == "" or (found.endswith("…") and words.startswith(found[:-1]))


def test_long_words_are_shortened_and_short_ones_are_not() -> None:
    parcel = parcel_for()
    assert json.loads(payload_of(parcel))["body"] == "A1, Milano"
    read = json.loads(payload_of(replace(parcel, body="grinder " * 1000)))
    assert read["body"].endswith("grinder…")
    assert len(payload_of(replace(parcel, body='"\\\n' * 3000))) <= MAX_PAYLOAD_BYTES


def test_topic_is_short_and_the_tags_own() -> None:
    one, other = topic_of("rescue-" + "a" * 32), topic_of("rescue-" + "b" * 32)
    assert one != other and len(one) == 32
    assert topic_of("rescue-" + "a" * 32) == one


async def test_signature_is_made_once_for_a_push_service_and_again_before_it_ends(push_service: PushService) -> None:
    now = time.time()
    channel = WebPush(clock=lambda: now)
    phone, desk = push_service.browser(), push_service.browser()
    await channel.send(parcel_for(phone))
    now += 5.9 * 3600
    await channel.send(parcel_for(desk))
    now += 0.2 * 3600
    # Its claims are from the future then, as far as the push service knows: it takes up to 24 h.
    await channel.send(parcel_for(desk))
    await channel.close()
    first, second, third = (push.headers["authorization"] for push in push_service.pushes)
    assert first == second != third
    claims = json.loads(decode(first.partition("t=")[2].split(".")[1]))
    assert claims["aud"] == push_service.origin
    assert claims["sub"] == "mailto:portafilter@localhost"


@pytest.mark.parametrize(
    ("status", "is_permanent", "is_gone"),
    [(400, True, False), (401, True, False), (403, True, False), (413, True, False), (404, True, True),
     (410, True, True), (429, False, False), (500, False, False), (503, False, False)],
)  # fmt: skip
async def test_each_refusal_is_understood(
    push_service: PushService, status: int, is_permanent: bool, is_gone: bool
) -> None:
    channel = WebPush()
    with pytest.raises(DeliveryError, match=f"127.0.0.1 answered {status}") as refused:
        await channel.send(parcel_for(push_service.browser(always=Answer(status))))
    await channel.close()
    assert (refused.value.permanent, refused.value.is_gone) == (is_permanent, is_gone)


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [("7", 7), ("0", 0), ("999999999", 3600), ("soon", None), ("-5", None), ("", None), ("٣", None)],
)
async def test_retry_after_is_read_strictly(push_service: PushService, header: str, expected_s: float | None) -> None:
    channel = WebPush()
    with pytest.raises(DeliveryError) as refused:
        await channel.send(parcel_for(push_service.browser(always=Answer(429, {"Retry-After": header}))))
    await channel.close()
    assert refused.value.retry_after_s == expected_s


async def test_retry_after_may_be_a_date(push_service: PushService) -> None:
    now = int(time.time())
    at = format_datetime(datetime.fromtimestamp(now + 30, UTC), usegmt=True)
    channel = WebPush(clock=lambda: now)
    with pytest.raises(DeliveryError) as refused:
        await channel.send(parcel_for(push_service.browser(always=Answer(503, {"Retry-After": at}))))
    await channel.close()
    assert refused.value.retry_after_s == 30


async def test_stall_ends_in_time(push_service: PushService, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TIMEOUT_S <= 5
    monkeypatch.setattr(web_push, "TIMEOUT_S", 0.3)
    channel = WebPush()
    with pytest.raises(DeliveryError, match="did not answer") as refused:
        await channel.send(parcel_for(push_service.browser(always=Answer(201, stall_s=600))))
    await channel.close()
    assert not refused.value.permanent


async def test_push_service_that_is_not_there_is_tried_again(push_service: PushService, settings: Settings) -> None:
    with refusing_port() as port, pytest.raises(DeliveryError, match="could not be reached") as refused:
        settings.PUSH_SERVICES = [f"http://127.0.0.1:{port}"]
        channel = WebPush()
        await channel.send(parcel_for(Browser(f"http://127.0.0.1:{port}/push/phone", [], Answer())))
    await channel.close()
    assert not refused.value.permanent


async def test_keys_that_are_none_are_a_refusal_and_no_crash(push_service: PushService) -> None:
    good = parcel_for(push_service.browser())
    channel = WebPush()
    wrong: Any
    for wrong in ({"p256dh": ""}, {"p256dh": "AAAA"}, {"auth": ""}, {"p256dh": "!" * 87}, {"p256dh": "BA" + "A" * 85}):
        with pytest.raises(DeliveryError, match="keys") as refused:
            await channel.send(replace(good, **wrong))
        assert refused.value.permanent
    await channel.close()
    assert push_service.pushes == []


async def test_pushes_to_one_service_share_connections(push_service: PushService) -> None:
    """Each costs little: twenty one after another, over one connection."""
    channel = WebPush()
    for _ in range(20):
        await channel.send(parcel_for(push_service.browser()))
    client = channel._client
    assert client is not None and client.connector is not None
    assert sum(len(kept) for kept in client.connector._conns.values()) == 1
    await asyncio.gather(*(channel.send(parcel_for(push_service.browser())) for _ in range(20)))
    await channel.close()
    assert push_service.problems == []

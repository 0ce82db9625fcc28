"""Messages by e-mail, to a mail server that takes, refuses and stalls."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from notifications import mail_server as settings_of_mail
from notifications.channels import email, mail_line
from notifications.channels.base import LONGEST_SEND_S, DeliveryError, Parcel
from notifications.channels.email import Email
from tests.fakes.mail_server import MailServer
from tests.waiting import LONG_S


def parcel(**changes: Any) -> Parcel:
    now = timezone.now()
    asked = Parcel(
        id=uuid4(), kind="asked", title="Help at Stazione Centrale", body="A1, Milano · E17 · 07:40 there\nGrüße",
        url="/sessions/7/", tag="t", created_at=now, expires_at=now + timedelta(minutes=5), address="alice@example.com",
    )  # fmt: skip
    return replace(asked, **changes)


async def send(one: Parcel) -> None:
    channel = Email()
    try:
        await channel.send(one)
    finally:
        await channel.close()


async def test_mail_is_plain_words_with_an_absolute_link(mail_server: MailServer, settings: Settings) -> None:
    settings.PUBLIC_ORIGINS = ["https://portal.example.com:8443", "https://other.example.com"]
    settings.NOTIFY_EMAIL_FROM = "help@example.com"
    one = parcel()
    await send(one)
    (mail,) = mail_server.wait_for(1)
    assert (mail.sender, mail.recipients) == ("help@example.com", ("alice@example.com",))
    message = mail.message
    assert message["Subject"] == "Help at Stazione Centrale"
    assert message["Message-ID"] == f"<{one.id}@portal.example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"
    words = message.get_content().replace("\r\n", "\n")
    assert "A1, Milano · E17 · 07:40 there\nGrüße" in words
    assert words.rstrip().endswith("\n\nhttps://portal.example.com:8443/sessions/7/")


async def test_second_try_has_the_same_message_id(mail_server: MailServer) -> None:
    one = parcel()
    await send(one)
    await send(one)
    assert len({mail.message["Message-ID"] for mail in mail_server.wait_for(2)}) == 1


async def test_words_become_no_headers(mail_server: MailServer) -> None:
    await send(parcel(title="Help\r\nBcc: evil@example.com\nX: y", body=".\r\nRCPT TO:<evil@example.com>\r\n.\r\nQUIT"))
    (mail,) = mail_server.wait_for(1)
    assert mail.recipients == ("alice@example.com",)
    assert mail.message["Bcc"] is None and mail.message["X"] is None
    assert mail.message["Subject"] == "Help Bcc: evil@example.com X: y"
    assert "RCPT TO" in mail.message.get_content(), "words they are, and words they stay"


@pytest.mark.parametrize("address", ["", "alice", "a@example.com, b@example.com", "a@example.com\nBcc: b@example.com"])
async def test_what_is_no_address_gets_nothing(mail_server: MailServer, address: str) -> None:
    with pytest.raises(DeliveryError, match="e-mail address") as refused:
        await send(parcel(address=address))
    assert refused.value.permanent
    assert mail_server.mails == []


@pytest.mark.parametrize(
    ("command", "answer", "is_permanent"),
    [("RCPT", "550 no such person", True), ("RCPT", "450 try later", False), ("MAIL", "451 busy", False),
     ("DATA", "554 no", True), ("MAIL", "421 closing", False)],
)  # fmt: skip
async def test_mail_servers_last_word_is_told_from_try_later(
    mail_server: MailServer, command: str, answer: str, is_permanent: bool
) -> None:
    mail_server.refusals[command] = answer
    with pytest.raises(DeliveryError, match=answer.split()[0]) as refused:
        await send(parcel())
    assert refused.value.permanent is is_permanent
    assert "example.com" not in str(refused.value)


async def test_mail_server_that_stalls_or_is_away_is_tried_again(
    mail_server: MailServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert email.TIMEOUT_S <= 5
    monkeypatch.setattr(email, "TIMEOUT_S", 0.2)
    mail_server.hold()
    with pytest.raises(DeliveryError, match="could not be reached") as refused:
        await send(parcel())
    assert not refused.value.permanent
    settings.NOTIFY_EMAIL_URL = "smtp://127.0.0.1:1"
    with pytest.raises(DeliveryError, match="could not be reached"):
        await send(parcel())


def time_is_over_as_soon_as(monkeypatch: pytest.MonkeyPatch, told: Callable[[], object]) -> None:
    """What LONGEST_S ends, ends when something has come about, however long that took this computer."""

    async def wait(work: list[asyncio.Future[Any]], *, timeout: float) -> Any:
        if timeout == email.LONGEST_S:
            await comes_about(told)
            timeout = 0
        return await asyncio.wait(work, timeout=timeout)

    shown = SimpleNamespace(wait=wait, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(email, "asyncio", shown)


async def comes_about(told: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG_S):
        while not told():
            await asyncio.sleep(0.005)


async def test_mail_server_slow_at_each_command_is_cut_off_and_gets_nothing_later(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer comes in time; all together would come long after the message is tried again."""
    assert email.LONGEST_S + email._LAST_WORD_S < LONGEST_SEND_S
    with monkeypatch.context() as patch:
        time_is_over_as_soon_as(patch, lambda: "RCPT" in mail_server.commands)
        mail_server.slow_at = dict.fromkeys(("EHLO", "MAIL", "RCPT"), 0.1) | {"DATA": 4.0}
        with pytest.raises(DeliveryError, match="did not take it within") as refused:
            await send(parcel())
    assert not refused.value.permanent
    mail_server.slow_at = {}
    await send(parcel(title="The next one"))
    await asyncio.to_thread(mail_server.wait_until_left)
    assert [mail.message["Subject"] for mail in mail_server.mails] == ["The next one"]


async def test_mail_broken_off_with_its_sender_is_not_sent_later(mail_server: MailServer) -> None:
    mail_server.hold()
    channel = Email()
    sending = asyncio.ensure_future(channel.send(parcel()))
    await comes_about(lambda: mail_server.talking)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await channel.close()
    mail_server.let_go()
    await send(parcel(title="The next one"))
    await asyncio.to_thread(mail_server.wait_until_left)
    assert [mail.message["Subject"] for mail in mail_server.mails] == ["The next one"]
    assert mail_server.commands.count("MAIL") == 1


async def test_mail_server_that_never_begins_tls_is_cut_off(
    mail_server: MailServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.NOTIFY_EMAIL_URL = mail_server.url.replace("smtp://", "smtps://")
    mail_server.hold()
    held: list[socket.socket] = []
    real = mail_line.Line.hold

    def hold(line: mail_line.Line, connection: socket.socket) -> None:
        real(line, connection)
        held.append(connection)

    monkeypatch.setattr(mail_line.Line, "hold", hold)
    # Neither ends the handshake before LONGEST_S does.
    monkeypatch.setattr(email, "TIMEOUT_S", 2 * LONG_S)
    monkeypatch.setattr(email, "_LAST_WORD_S", LONG_S)
    time_is_over_as_soon_as(monkeypatch, lambda: held)
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="did not take it within"):
        await send(parcel())
    assert time.monotonic() - began < email._LAST_WORD_S, "its thread has ended, too"


async def test_mail_taken_at_the_last_moment_counts_as_sent(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(email, "_LAST_WORD_S", LONG_S)
    time_is_over_as_soon_as(monkeypatch, lambda: "QUIT" in mail_server.commands)
    mail_server.slow_at["QUIT"] = 4.0
    await send(parcel())
    assert len(mail_server.mails) == 1


def test_password_of_the_mail_server_is_in_no_words() -> None:
    server = settings_of_mail.parse("smtps://portal:canary%2F7Yk2@mail.example.com")
    assert server is not None
    assert (server.password, server.port, server.has_tls) == ("canary/7Yk2", 465, True)
    assert "canary" not in repr(server)
    for url in (
        "smtp://portal:canary-7Yk2@mail.example.com", "https://portal:canary-7Yk2@mail.example.com",
        "smtps://portal:canary-7Yk2@mail.example.com:99999", "smtps://portal:canary-7Yk2@", "smtps://u:canary-7Yk2@h/x",
    ):  # fmt: skip
        with pytest.raises(ValueError) as refused:
            settings_of_mail.parse(url)
        assert "canary" not in str(refused.value)

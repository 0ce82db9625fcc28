"""E-mail: plain words and one link, handed to the mail server that NOTIFY_EMAIL_URL names.

Through Django's SMTP backend, made here: EMAIL_BACKEND stays what it is, for nothing else sends mail. A message tried
twice has the same Message-ID, by which receivers tell duplicates.
"""

from __future__ import annotations

import asyncio
import re
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email

from notifications import wording
from notifications.channels.base import DeliveryError, Parcel
from notifications.channels.mail_line import Backend, Line
from notifications.mail_server import MailServer, parse

# For the connection and for each answer of the mail server.
TIMEOUT_S = 5
# For all of them together; then the connection is cut. Shorter than any send may be (base.LONGEST_SEND_S), so that no
# thread is still talking when the message is tried again.
LONGEST_S = 15.0
# Within so long a thread whose connection was cut says what it knows: it may have been taken at the last moment.
_LAST_WORD_S = 1.0
_AT_ONCE = 4
_MAX_SUBJECT_CHARS = 150


class Email:
    """The `email` channel."""

    def __init__(self) -> None:
        server = parse(settings.NOTIFY_EMAIL_URL)
        if server is None:
            raise ValueError("NOTIFY_EMAIL_URL is empty: there is no mail server")
        self._server = server
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mail")

    async def send(self, parcel: Parcel) -> None:
        """Hands it to the mail server; raises DeliveryError. Ended or broken off, nothing more is said there."""
        line = Line()
        work = asyncio.get_running_loop().run_in_executor(self._threads, _send, self._server, parcel, line)
        try:
            await asyncio.wait([work], timeout=LONGEST_S)
            is_late = not work.done()
            if is_late:
                line.cut()
                await asyncio.wait([work], timeout=_LAST_WORD_S)
            if is_late and not (work.done() and work.exception() is None):
                raise DeliveryError(f"The mail server did not take it within {LONGEST_S:.0f} s.")
            work.result()
        finally:
            line.cut()
            work.cancel()

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def message_of(parcel: Parcel) -> EmailMessage:
    """The mail; raises DeliveryError for what is no address."""
    try:
        validate_email(parcel.address)
    except ValidationError as error:
        raise DeliveryError("The person's e-mail address is none.", permanent=True) from error
    origin = settings.PUBLIC_ORIGINS[0]
    link = f"{origin}{parcel.url}" if parcel.url.startswith("/") else ""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", urlsplit(origin).hostname or "") or "localhost"
    return EmailMessage(
        subject=wording.shorten(wording.one_line(parcel.title), max_chars=_MAX_SUBJECT_CHARS),
        body="\n\n".join(part for part in (parcel.title, parcel.body, link) if part) + "\n",
        from_email=settings.NOTIFY_EMAIL_FROM,
        to=[parcel.address],
        headers={
            "Message-ID": f"<{parcel.id}@{host}>",
            # No out-of-office answers (RFC 3834).
            "Auto-Submitted": "auto-generated",
        },
    )


def _send(server: MailServer, parcel: Parcel, line: Line) -> None:
    message = message_of(parcel)
    message.connection = Backend(line, server, timeout_s=TIMEOUT_S)
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise _refusal("the recipient", max(codes, default=550)) from error
    except smtplib.SMTPAuthenticationError as error:
        raise DeliveryError("The mail server did not accept the name and password in NOTIFY_EMAIL_URL.") from error
    except smtplib.SMTPResponseException as error:
        raise _refusal("the message", error.smtp_code) from error
    except (smtplib.SMTPException, ssl.SSLError, OSError) as error:
        raise DeliveryError(f"The mail server could not be reached ({type(error).__name__}).") from error
    except ValueError as error:  # Django's BadHeaderError, or what cannot be encoded
        raise DeliveryError("The message cannot be written as e-mail.", permanent=True) from error


def _refusal(what: str, code: int) -> DeliveryError:
    """5xx is the mail server's last word, 4xx is not (RFC 5321, section 4.2.1)."""
    return DeliveryError(f"The mail server refused {what} ({code}).", permanent=code >= 500)

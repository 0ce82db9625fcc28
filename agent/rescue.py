"""One press of the help button, from opening the desktop to the moment when nothing is open any more.

Theory of operation:

1. A record with the one-off user, password and Idempotency-Key is on disk before anything is opened.
2. The line to support, a VPN where there is one, is brought up. RDP is opened for that user; then the server is asked,
   again and again with the same key, until it answers.
3. The request is followed by long polls; what the person at the machine should read goes to `display`.
4. `closing` or `closed`, a cancel, a refusal, an error, a shutdown: RDP is shut first, then the record is erased.
   When shutting fails, the record stays, and the next start tries again.
5. The server ends the tunnel when all is closed; when it does not, the agent does.

A server that ends or refuses the tunnel in the middle of a rescue wants nothing open here: RDP is shut at once, and
only opened again when the tunnel is back and the server says that the rescue goes on.

A restarted agent finds the record: it shuts what was left open, asks whether the rescue still goes on, and if so lets
the same user in again. While one process drives a rescue (it holds the lock), a second press only follows that one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from agent.api import Answer, ApiError, Backoff, Client, Stopped, SupportRequest, keep_trying
from agent.config import AgentConfig
from agent.credentials import one_off_credentials
from agent.line import HALTED, REFUSED, Line, NoTunnel
from agent.notices import Notice, failed_notice, notice_of, offline_notice
from agent.rdp import RdpError, RdpHook, rdp_login_details
from agent.store import Problem, Record, RescueStore

log = logging.getLogger("agent.rescue")

ASK_FOR_S = 900.0  # a person waits at the machine: after this long without any answer we say so and stop
OFFLINE_SHUT_S = 900.0  # without any answer for this long, RDP is shut until the server is heard again
_CANCEL_FOR_S = 60.0
_OPEN_TRIES = 3  # RDP may come up at the second try on a machine that is busy, or in the middle of an update
REFUSED_FOR_S = 45.0  # a server that is being restarted refuses for less; whoever is refused for longer is meant
HALTED_FOR_S = 180.0  # by then the server has given the rescue up; a revoked machine may get no better answer than none
_LINE_S = 3.0  # so long a call waits for the line before it counts as failed
_LINE_PAUSE_S = 5.0  # the longest pause between calls over a line that says itself when it is back
_LOOK_AGAIN_S = 0.05
_PREPARING = Notice("preparing", "One moment: this screen is being made ready for support.")
_LAST_WORD_S = 10  # after `closing`: how long to wait for the last sentence

_T = TypeVar("_T")


class Rescue:
    """Drives this machine's rescues, one at a time. `press` blocks; `cancel` and `stop` come from other threads."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        api: Client,
        hook: RdpHook,
        display: Callable[[Notice], None],
        store: RescueStore,
        line: Line | None = None,
    ) -> None:
        self._config = config
        self._api = api
        self._hook = hook
        self._display = display
        self._store = store
        self._line = line or NoTunnel()
        self._wake = threading.Event()  # ends every pause; the two flags below say why
        self._stopping = False
        self._cancelling = False
        self._presses = 0
        self._shown: Notice | None = None
        self._is_open = False

    def press(self, problem: Problem) -> Notice:
        """Asks for help and returns when the rescue is over, with the last thing said.

        A rescue that is open already is followed or taken up instead. Raises Stopped when the agent is being shut down
        (RDP is then shut, the record kept for the next start), and RdpError when RDP could not be shut again.
        """
        self._presses += 1
        press = self._presses
        with self._line_held():
            while True:
                with self._store.lock() as is_mine:
                    if is_mine:
                        ending = self._take_up_or_begin(problem)
                        break
                followed = self._follow_other()
                if followed is not None:
                    return followed
                # Whoever has the lock only looks whether there is anything to do: this press is not to be lost for it.
                if self._stopping:
                    raise Stopped("waiting for the lock")
                self._show(_PREPARING)
                time.sleep(_LOOK_AGAIN_S)
            return self._last_word(ending, press)

    def recover(self) -> Notice | None:
        """Cleans up after an earlier run and takes its rescue up if it still goes on; None when there was none."""
        with contextlib.ExitStack() as stack:
            with self._store.lock() as is_mine:
                record = self._store.read() if is_mine else None
                if record is None:
                    return None
                log.info("start: an earlier run left request %s behind", record.request_id or "(not yet answered)")
                press = self._presses
                stack.enter_context(self._line_held())
                ending = self._take_up(record)
            return self._last_word(ending, press)

    def cancel(self) -> bool:
        """The person no longer needs help; False when there was nothing to cancel.

        RDP is shut by whoever drives the rescue, at the latest when the server can be told, and in any case when it is
        out of reach. Raises ApiError when the server refuses.
        """
        record = self._store.read()
        if record is None:
            return False
        log.info("cancel: request %s", record.request_id or "(not yet answered)")
        self._store.want_cancel()
        self._cancelling = True
        self._wake.set()
        with self._line_held():
            if self._end_of_the_dead():
                return True
            if record.request_id:
                self._ask_to_cancel(record.request_id)
            # Whoever had the lock may only have looked, and nobody drives it: what is left would stay open.
            self._end_of_the_dead()
        return True

    def stop(self) -> None:
        """The agent is being shut down: a running press shuts RDP and raises Stopped."""
        self._stopping = True
        self._wake.set()
        self._api.hang_up()

    def drop_orphan(self, request: SupportRequest | None) -> None:
        """Cancels a request that the server holds open but of which no record is left: its login exists no more.

        `request` is a heartbeat's answer. Raises ApiError.
        """
        if request is None or request.is_over:
            return
        with self._store.lock() as is_mine:
            if is_mine and self._store.read() is None:
                log.warning("heartbeat: request %s is open, but its login is gone here: cancelling it", request.id)
                self._api.cancel(request.id)

    def _end_of_the_dead(self) -> bool:
        """Ends a rescue whose process is dead; False when somebody has the lock, who drives it as a rule."""
        with self._store.lock() as is_mine:
            # What was read before may have ended since, or another one begun.
            record = self._store.read() if is_mine else None
            if record is not None:
                self._shut(record)
                self._tell_cancelled(record)
                self._store.erase()
            return is_mine

    # One rescue, driven by the holder of the lock

    def _take_up_or_begin(self, problem: Problem) -> Notice:
        self._cancelling = False
        if not self._stopping:
            self._wake.clear()
        record = self._store.read()
        if record is not None:
            log.info("press: taking up request %s of an earlier press", record.request_id or "(not yet answered)")
            return self._take_up(record)
        record = self._new_record(problem)
        log.info("press: code=%s user=%s key=%s", problem.code or "-", record.username, record.key)
        return self._drive(record, is_new=True)

    def _new_record(self, problem: Problem) -> Record:
        self._store.erase()  # what an unreadable record left
        credentials = one_off_credentials()
        record = Record(
            key=uuid.uuid4().hex,
            username=credentials.username,
            password=credentials.password,
            code=problem.code,
            text=problem.text,
            pressed_at=time.time(),
            port=self._config.rdp_port,
        )
        self._store.write(record)
        return record

    def _drive(self, record: Record, *, is_new: bool) -> Notice:
        """From a record on disk to the end; RDP is shut on every way out."""
        is_over = must_tell = False
        try:
            ending = self._serve(record, is_new=is_new)
            is_over = True
            self._line.expect_end()
        except (ApiError, RdpError) as error:
            log.error("rescue: %s", error)
            ending = failed_notice(error)
            is_over, must_tell = True, isinstance(error, RdpError)
        except Stopped:
            if not self._cancelling or self._stopping:
                log.info("stop: the rescue is kept for the next start")
                raise
            ending = Notice("cancelled", "Your request was withdrawn. Nobody can see this screen.")
            is_over = must_tell = True
        finally:
            # Also for a KeyboardInterrupt: first the door, then the memory of it.
            current = self._store.read() or record
            self._shut(current)
            if must_tell:
                self._tell_cancelled(current)
            if is_over:
                self._store.erase()
        self._show(ending)
        log.info("over: %s", ending.end_reason or ending.state)
        return ending

    def _serve(self, record: Record, *, is_new: bool) -> Notice:
        self._show(_PREPARING)
        self._connect(give_up_after_s=None if record.request_id else ASK_FOR_S)
        if record.request_id:
            request = self._read(record.request_id, wait_s=0)
            if not request.is_over:
                self._open(record)
        else:
            record = self._open(record)
            self._show(Notice("asking", "Calling support…"))
            record, request = self._ask(record, is_new=is_new)
            record = self._store.change(record, request_id=request.id)
        log.info("asked: request %s is %s", request.id, request.state)
        return self._follow(record, request)

    def _open(self, record: Record) -> Record:
        port = self._open_hook(record)
        self._is_open = True
        log.info("open: RDP for %s on port %d", record.username, port)
        if record.request_id and record.port not in (0, port):
            raise RdpError(f"RDP is open on port {port}, but support was told {record.port}")
        return record if record.port == port else self._store.change(record, port=port)

    def _open_hook(self, record: Record) -> int:
        """The port on which the hook has opened RDP, at one of a few tries; raises the last one's RdpError, Stopped."""
        pauses = Backoff(first_s=1.0)
        while True:
            try:
                return self._hook.open(record.credentials)
            except RdpError as error:
                if pauses.tries == _OPEN_TRIES - 1:
                    raise
                pause_s = pauses.next_s()
                log.warning("open: %s; trying again in %.1f s", error, pause_s)
            if self._wake.wait(pause_s):
                raise Stopped("opening RDP")

    def _ask(self, record: Record, *, is_new: bool) -> tuple[Record, SupportRequest]:
        """The request for this record's key; another one still open, whose login is lost, is cancelled first."""
        answer, tries = self._ask_once(record)
        if answer.is_new or not is_new or tries > 1:
            return record, answer.request  # 200 after a retry or a restart is our own request
        log.warning("asked: request %s was open, but its login is gone here: cancelling it", answer.request.id)
        over = self._api.cancel(answer.request.id)
        deadline = time.monotonic() + _CANCEL_FOR_S
        while not over.is_over and time.monotonic() < deadline:
            over = self._read(over.id, wait_s=2, since=over.version)
        record = self._store.change(record, key=uuid.uuid4().hex)
        return record, self._ask_once(record)[0].request

    def _ask_once(self, record: Record) -> tuple[Answer, int]:
        login = rdp_login_details(port=record.port, domain=self._config.rdp_domain, security=self._config.rdp_security)
        pauses = self._pauses()

        def ask() -> Answer:
            return self._api.ask(record.key, record.credentials, rdp=login, problem=record.problem.as_json())

        answer = keep_trying(
            lambda: self._reach(ask, self._wake),
            stop=self._wake,
            what="asking for help",
            give_up_after_s=ASK_FOR_S,
            on_failure=self._offline,
            backoff=pauses,
        )
        return answer, pauses.tries + 1

    def _follow(self, record: Record, request: SupportRequest) -> Notice:
        """Shows every change until the server wants the desktop shut."""
        heard_at = time.monotonic()

        def unanswered(error: ApiError) -> None:
            self._offline(error)
            if self._is_open and self._line.state.is_ended_by_server:
                log.warning("the server has ended the tunnel: shutting RDP until it says that the rescue goes on")
                self._shut(record)
            if self._is_open and time.monotonic() - heard_at > OFFLINE_SHUT_S:
                log.warning("offline for %.0f s: shutting RDP until support answers", OFFLINE_SHUT_S)
                self._shut(record)

        pauses = Backoff(first_s=1.0)
        while True:
            if request.is_over:
                return notice_of(request)  # shown when RDP is shut: what it says is true by then
            self._show(notice_of(request))
            if not self._is_open:
                self._open(record)
            asked_at = time.monotonic()
            wait_s = self._config.poll_wait_s
            newer = self._read(request.id, wait_s=wait_s, since=request.version, on_failure=unanswered)
            heard_at = time.monotonic()
            if newer != request or not self._is_open:
                pauses = Backoff(first_s=1.0)
            elif heard_at - asked_at < min(1.0, wait_s) or wait_s == 0:
                # A server that does not hold the poll must not be called in a tight loop.
                self._wake.wait(pauses.next_s())
            request = newer

    def _read(
        self,
        request_id: str,
        *,
        wait_s: int,
        since: int | None = None,
        on_failure: Callable[[ApiError], None] | None = None,
    ) -> SupportRequest:
        was_open = self._is_open

        def read() -> SupportRequest:
            # RDP that was shut meanwhile waits for a word, and not for news.
            is_shut = was_open and not self._is_open
            return self._api.read(request_id, wait_s=0 if is_shut else wait_s, since=since)

        return keep_trying(
            lambda: self._reach(read, self._wake),
            stop=self._wake,
            what="following the rescue",
            on_failure=on_failure or self._offline,
            backoff=self._pauses(),
        )

    def _take_up(self, record: Record) -> Notice:
        """An earlier run's rescue: shut what it left open, then go on with it if it is worth it."""
        self._shut(record)
        is_stale = not record.request_id and time.time() - record.pressed_at > ASK_FOR_S
        if record.is_over or is_stale or self._store.is_cancel_wanted():
            if self._store.is_cancel_wanted():
                self._tell_cancelled(record)
            self._store.erase()
            ending = Notice("cancelled", "The earlier request for help is closed.", request_id=record.request_id)
            self._show(ending)
            return ending
        return self._drive(record, is_new=False)

    def _shut(self, record: Record) -> None:
        try:
            self._hook.close(record.username)
        except RdpError as error:
            log.error("close: %s; the next start tries again", error)
            self._store.change(record, is_over=True)
            raise
        if self._is_open:
            log.info("close: RDP is shut, user %s is gone", record.username)
        self._is_open = False

    def _tell_cancelled(self, record: Record) -> None:
        if not record.request_id:
            return  # if the server did get it, the next heartbeat's answer shows it, and drop_orphan() ends it
        try:
            keep_trying(
                lambda: self._reach(lambda: self._api.cancel(record.request_id), threading.Event()),
                stop=threading.Event(),
                what="cancelling",
                give_up_after_s=_CANCEL_FOR_S,
                backoff=self._pauses(),
            )
        except ApiError as error:
            log.warning("cancel: %s", error)

    def _ask_to_cancel(self, request_id: str) -> None:
        """Once: whoever drives the rescue goes on trying. Raises ApiError when the server refuses."""
        try:
            self._reach(lambda: self._api.cancel(request_id), threading.Event())
        except ApiError as error:
            if not error.retryable:
                raise
            log.warning("cancel: %s; the driver of the rescue goes on trying", error)

    # The line to support

    @contextlib.contextmanager
    def _line_held(self) -> Iterator[None]:
        self._line.hold()
        try:
            yield
        finally:
            self._line.release()

    def _connect(self, *, give_up_after_s: float | None) -> None:
        """Returns when the line is up. Raises ApiError when it does not come up, Stopped."""
        keep_trying(
            lambda: self._reach(lambda: None, self._wake),
            stop=self._wake,
            what="connecting",
            give_up_after_s=give_up_after_s,
            on_failure=self._offline,
            backoff=self._pauses(),
        )

    def _reach(self, call: Callable[[], _T], stop: threading.Event) -> _T:
        """Makes the call as soon as the line is up, if that is soon. Raises ApiError."""
        if self._line.wait_until_up(stop, _LINE_S):
            return call()
        state = self._line.state
        if state.is_hopeless:
            raise ApiError(state.detail, retryable=False)
        if state.ended_for_s > (REFUSED_FOR_S if state.name == REFUSED else HALTED_FOR_S):
            reason = state.detail or "it ended the tunnel and takes no other"
            raise ApiError(f"the server does not admit this machine: {reason}", retryable=False)
        raise ApiError(f"the tunnel is not up ({state.name}: {state.detail or 'no reason given'})", retryable=True)

    def _pauses(self) -> Backoff:
        # A tunnel says itself when it is back, and is waited for: long pauses would only miss that moment.
        return Backoff(largest_s=_LINE_PAUSE_S) if self._config.vpn_profile is not None else Backoff()

    # What the person reads

    def _follow_other(self) -> Notice | None:
        """A second press: another process or thread drives the rescue, this one only shows how it goes.

        None when there is no rescue: a start or a heartbeat has the lock for a moment, or one has just ended.
        """
        request: SupportRequest | None = None
        is_driven = False
        while True:
            record = self._store.read()
            is_driven = is_driven or record is not None
            request_id = request.id if request else record.request_id if record else ""
            if request_id:
                wait_s = min(5, self._config.poll_wait_s) if request and record else 0
                request = self._read(request_id, wait_s=wait_s, since=request.version if request else None)
                self._show(notice_of(request))
            if (request is not None and request.is_over) or record is None:
                if request is not None:
                    return notice_of(request)
                return Notice("closed", "The rescue is over.") if is_driven else None
            if self._wake.wait(0.3) and self._stopping:
                raise Stopped("following the rescue")

    def _last_word(self, ending: Notice, press: int) -> Notice:
        """Waits a little for `closed`, whose sentence says that all is down; nothing depends on it."""
        if ending.state != "closing" or self._stopping:
            return ending
        self._wake.clear()  # a cancel has set it; a stop is seen below
        deadline = time.monotonic() + _LAST_WORD_S
        request = None
        while time.monotonic() < deadline and not self._stopping and self._presses == press:
            try:
                request = self._api.read(ending.request_id, wait_s=2, since=request.version if request else None)
            except ApiError as error:
                log.info("last word: %s", error)
                if self._is_line_ended():
                    break  # that is the server's last word
                if not error.retryable or self._config.vpn_profile is None:
                    return ending
            if request is not None and request.state == "closed":
                ending = notice_of(request)
                break
            self._wake.wait(0.2)
        if self._config.vpn_profile is not None:
            # With the tunnel all is closed, also where nobody could say so; the sentence of the end stays the same.
            ending = replace(ending, state="closed")
        if ending.state == "closed" and self._presses == press and not self._stopping:
            self._show(ending)
        return ending

    def _is_line_ended(self) -> bool:
        return self._line.state.name == HALTED and self._config.vpn_when == "press"

    def _offline(self, error: ApiError) -> None:
        if self._store.is_cancel_wanted():
            self._cancelling = True
            self._wake.set()
        shown = self._shown
        self._show(offline_notice(self._line.state, request_id=shown.request_id if shown else ""))

    def _show(self, notice: Notice) -> None:
        if notice != self._shown:
            self._shown = notice
            log.info("show: %s: %s", notice.state, notice.message)
            self._display(notice)

"""What the path does to a request: whether the key, the cursor, the offer to upgrade and ``Expect`` reach the server."""

from __future__ import annotations

from dataclasses import replace

from compare.probing.heard import Heard
from compare.probing.http1 import Headers, Http1Stream, fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject
from compare.probing.websocket import SUBPROTOCOL, Socket
from compare.probing.wires import HttpWire

_CURSOR = 5
_ANSWER_S = 5.0
_UNAUTHENTICATED = 16
# The servers ask for a bearer token alone.
_PASSWORDS = frozenset({"basic", "digest"})


async def check_key(subject: Subject) -> Outcome:
    """Whether the key arrives. Where only ``X-API-Key`` does, the other checks go on with that header."""
    heard = await subject.wire.authorized(subject.target)
    if heard.status is None and heard.rpc_status is None:
        return Outcome(heard.words, (Finding("refused", subject.wire.word, f"no request passes: {heard.words}"),))
    if heard.redirected:
        return Outcome(heard.words, (Finding("redirected", subject.wire.word, f"no request passes: {heard.words}"),))
    if not _unauthenticated(heard):
        return Outcome("accepted" if subject.target.key else "the server asks for none")
    scheme = heard.headers.get("www-authenticate", "").partition(" ")[0]
    if scheme.lower() in _PASSWORDS:
        words = f"a hop asks for a password of its own ({scheme}): {heard.words}"
        return Outcome(words, (_key_finding(subject, words),))
    if not subject.target.key:
        return Outcome("the server asks for a key: give --key", (_key_finding(subject, "the server asks for a key"),))
    other = replace(subject.target, key_header="X-API-Key")
    if not _unauthenticated(await subject.wire.authorized(other)):
        subject.target = other
        words = "Authorization does not reach the server, X-API-Key does"
    else:
        words = "the server refuses the key: it is wrong, or the path removes it"
    return Outcome(words, (_key_finding(subject, words),))


def _unauthenticated(heard: Heard) -> bool:
    return heard.status == 401 or heard.rpc_status == _UNAUTHENTICATED


def _key_finding(subject: Subject, words: str) -> Finding:
    return Finding("key_removed", subject.wire.word, words)


async def check_cursor(subject: Subject) -> Outcome:
    """Whether a client that comes back gets the events after its cursor, and not all of them."""
    if subject.turn is None or subject.turn.turn_id is None or not subject.wire.tokens:
        return Outcome("not judged: there is no turn to come back to", judged=False)
    heard = await read_whole(await subject.wire.resume(subject.target, subject.turn.turn_id, _CURSOR), GRACE_S)
    if not heard.events:
        return Outcome(f"not judged: {heard.words}", judged=False)
    first = heard.events[0].seq
    if first == _CURSOR + 1:
        return Outcome("reaches the server")
    words = f"the answer began at event {first} instead of {_CURSOR + 1}"
    return Outcome(words, (Finding("cursor_removed", subject.wire.word, words),))


async def check_upgrade(subject: Subject) -> Outcome:
    """Whether the handshake of the WebSocket passes, with its subprotocol."""
    socket = await Socket.open(subject.target)
    try:
        heard = socket.heard
        if heard.status == 101 and socket.subprotocol == SUBPROTOCOL:
            return Outcome("101, with the subprotocol")
        lost = heard.status == 101
        words = "101, but the subprotocol is lost" if lost else f"the handshake is refused: {heard.words}"
        return Outcome(words, (Finding("upgrade_refused", subject.wire.word, words),))
    finally:
        await socket.leave()


async def check_continue(subject: Subject) -> Outcome:
    """Whether a request with ``Expect: 100-continue`` (RFC 9110, section 10.1.1) passes. curl sends one."""
    if not isinstance(subject.wire, HttpWire):
        return Outcome("HTTP/1.1 only", judged=False)
    continued, heard = await _post_nothing(subject, expect=True)
    if heard.status == 417 or (not continued and subject.wire.refused_by_server(heard) is None):
        _, usual = await _post_nothing(subject, expect=False)
        if subject.wire.refused_by_server(usual) is None:
            return Outcome(f"not judged: without Expect too the answer is {usual.words}", judged=False)
        words = f"a request with Expect: 100-continue is refused: {heard.words}"
        return Outcome(words, (Finding("continue_refused", subject.wire.word, words),))
    return Outcome("100 Continue" if continued else "no 100 Continue within 2 s; the request passes")


async def _post_nothing(subject: Subject, *, expect: bool) -> tuple[bool, Heard]:
    """Send a POST that the server refuses; whether ``100 Continue`` came, and the answer."""
    body = b"{}"
    stream = await Http1Stream.open(subject.target)
    try:
        stream.send(subject.target, "POST", "/turns", (("Content-Type", "application/json"),), body, expect=expect)
        if expect:
            await stream.read(2.0, lambda _: stream.continued_s is not None)
            if stream.heard.end == "open":
                await stream.send_body(body)
        heard = await stream.read(_ANSWER_S)
    finally:
        await stream.leave()
    return stream.continued_s is not None, heard


async def _refused_page(subject: Subject, origin: Headers) -> str | None:
    """The code with which the server refuses an empty message of a page of this origin."""
    return subject.wire.refused_by_server(await fetch(subject.target, "POST", "/turns", {}, origin))


async def check_origin(subject: Subject) -> Outcome:
    """Whether a page at this address may ask the server: the server compares ``Origin`` with ``Host`` (RFC 6454)."""
    origin = f"{'https' if subject.target.trust else 'http'}://{subject.target.authority}"
    heard = await fetch(subject.target, "POST", "/turns", {}, (("Origin", origin),))
    if heard.status is None:
        return Outcome(f"not judged: {heard.words}", judged=False)
    if subject.wire.refused_by_server(heard) != "permission_denied":
        return Outcome("a page at this address may ask the server")
    plain = (("Origin", f"http://{subject.target.authority}"),)
    if subject.target.trust and await _refused_page(subject, plain) != "permission_denied":
        words = f"the server refuses a page of {origin}, and would allow one over http"
        return Outcome(words, (Finding("https_unknown", subject.wire.word, words),))
    words = f"the server refuses a page of {origin}, because the Host that reaches the server is another one"
    return Outcome(words, (Finding("host_changed", subject.wire.word, words),))

"""The offline model: a chat without a key or a network, the same tokens on the same schedule for every transport.

It is a stand-in and says so. The reply is a pure function of the conversation (``reply_tokens``): several turns deep,
with Markdown, indented code, emoji with joiners, combining marks, and in some replies U+2028 and U+0085, so that a
transport that damages whitespace or splits lines in the wrong place shows it.

Stage directions, at the start of a message, any number of them, so that every way a model can go wrong can be seen on
every transport without a provider:

=====================  ===============================================================================
``/tokens N``          exactly N tokens (at most 1,000,000), whatever ``OFFLINE_TOKENS`` says
``/slow S``            S seconds before the first token (as well as ``OFFLINE_FIRST_TOKEN_MS``)
``/stall S``           S seconds of silence in the middle of the answer
``/fail CODE``         fails with CODE after three tokens
``/fail-first CODE``   fails with CODE before the first token
=====================  ===============================================================================

CODE is a ``model_*`` code of ``shared/errors.py`` or ``content_refused``; S is at most 3600. Anything else that starts
with a slash is an ordinary message.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import unicodedata
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from shared.errors import ERRORS, ChatError, ErrorCode, known_code
from shared.events import Usage
from shared.llm.model import ContextMessage, Delta

if TYPE_CHECKING:
    from shared.config import Settings

MODEL_ID = "offline-1"
FAILS_AFTER_TOKENS = 3
MAX_TOKENS = 1_000_000
MAX_WAIT_S = 3600.0
FAIL_CODES: frozenset[str] = frozenset(
    code for code in ERRORS if code.startswith("model_") or code == "content_refused"
)

_MEMO_SIZE = 256
_READ_CHARS = 10_000
_DIRECTION = re.compile(r"\s*/(tokens|slow|stall|fail|fail-first)\s+(\S{1,40})(?:\s|$)")
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
# Words of seven letters and more come in pieces; a piece takes the punctuation and the whitespace after it.
_TOKEN = re.compile(r"(?:\w{4}(?=\w{3})|\w{1,6}[^\w\s]{0,6}|[^\w\s]{1,6})\s{0,24}|\s{1,24}")


@dataclass(frozen=True, slots=True)
class Stage:
    """A message without its stage directions, and what they were (``tokens`` 0: unset)."""

    message: str
    tokens: int = 0
    slow_s: float = 0.0
    stall_s: float = 0.0
    fail: ErrorCode | None = None
    fail_first: ErrorCode | None = None


def directions(text: str) -> Stage:
    """Read the stage directions at the start of a message or of a prompt; a malformed one is left in the message."""
    stage, rest = Stage(text), text
    while match := _DIRECTION.match(rest):
        name, value = match[1], match[2]
        if name == "tokens" and value.isdecimal() and 0 < int(value) <= MAX_TOKENS:
            stage = replace(stage, tokens=int(value))
        elif name == "slow" and _SECONDS.fullmatch(value):
            stage = replace(stage, slow_s=min(float(value), MAX_WAIT_S))
        elif name == "stall" and _SECONDS.fullmatch(value):
            stage = replace(stage, stall_s=min(float(value), MAX_WAIT_S))
        elif name == "fail" and value in FAIL_CODES:
            stage = replace(stage, fail=known_code(value))
        elif name == "fail-first" and value in FAIL_CODES:
            stage = replace(stage, fail_first=known_code(value))
        else:
            break
        rest = rest[match.end() :]
    return replace(stage, message=rest.strip()) if rest is not text else stage


def count_tokens(texts: Iterable[str]) -> int:
    """How many tokens the texts are, in the offline model's own; a long one goes by its first 10,000 characters."""
    count = 0
    for text in texts:
        head = text[:_READ_CHARS]
        count += len(_TOKEN.findall(head)) * max(1, len(text) // _READ_CHARS)
    return count


def split_tokens(text: str) -> list[str]:
    """Split into tokens whose concatenation is the text; none is empty or ends inside a grapheme cluster or CR LF."""
    tokens = _TOKEN.findall(text)
    if text.isascii() and "\r" not in text:
        return tokens
    whole: list[str] = []
    for token in tokens:
        if whole and _joins(whole[-1], token):
            whole[-1] += token
        else:
            whole.append(token)
    return whole


def _joins(left: str, right: str) -> bool:
    """Whether a grapheme cluster goes over this border (UAX 29, simplified: GB3, GB9, GB9a, GB9c, GB11, GB12)."""
    before, after = left[-1], right[0]
    if before == "\r" and after == "\n":
        return True
    if before in "\r\n":
        return False
    if after in "\u200c\u200d" or before == "\u200d" or unicodedata.category(after) in ("Mn", "Mc", "Me"):
        return True
    if unicodedata.combining(before) == 9 and after.isalpha():  # a virama binds two consonants
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True
    return after in _FLAGS and (len(left) - len(left.rstrip(_FLAGS))) % 2 == 1


def reply_tokens(history: Sequence[ContextMessage], limit: int = 0) -> list[str]:
    """The whole reply to ``history`` in tokens, the same in every process and on every machine.

    ``limit`` tokens where it is not 0 (the reply is cut, or said again after a blank line); ``/tokens`` wins.
    """
    tokens, _ = _limited(history, limit)
    return tokens


def _limited(history: Sequence[ContextMessage], limit: int) -> tuple[list[str], bool]:
    """The tokens, and whether the reply was cut."""
    stage = directions(history[-1].text if history else "")
    tokens = split_tokens(_compose(history, stage.message))
    limit = stage.tokens or limit
    if not limit:
        return tokens, False
    return list(islice(cycle([*tokens, "\n\n"]), limit)), limit < len(tokens)


@dataclass(frozen=True, slots=True)
class _Script:
    """A reply ready to be said: nothing is computed while it streams."""

    deltas: tuple[Delta, ...]
    last: Delta
    stage: Stage


class OfflineChat:
    """ChatModel without a provider, at ``OFFLINE_TOKENS_PER_S`` (0: no pause and no ``await`` between tokens)."""

    provider = "offline"
    hint = "offline stand-in; set GEMINI_API_KEY for the real model"

    def __init__(self, settings: Settings) -> None:
        self.default_model = settings.genai_model_id or MODEL_ID
        self.models: tuple[str, ...] = (MODEL_ID,)
        self._per_s = settings.offline_tokens_per_s
        self._first_s = settings.offline_first_token_ms / 1000
        self._limit = settings.offline_tokens
        self._memo: dict[bytes, _Script] = {}

    async def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply; token i is due at first + i / rate on the loop's clock, so lateness does not add up.

        Raises ChatError ``model_not_found`` for any id but ``offline-1``, and what the stage directions ask for.
        """
        if model_id != MODEL_ID:
            raise ChatError(
                "model_not_found",
                f"The offline model is {MODEL_ID} only; set GENAI_MODEL_ID to it or unset it, or leave model_id out.",
            )
        script = self._script(history)
        stage, deltas = script.stage, script.deltas
        clock = asyncio.get_running_loop().time
        due = clock() + self._first_s + stage.slow_s
        if self._first_s + stage.slow_s > 0:
            await asyncio.sleep(due - clock())
        if stage.fail_first:
            raise ChatError(stage.fail_first)
        if stage.fail:
            deltas = deltas[:FAILS_AFTER_TOKENS]
        half = len(deltas) // 2 if stage.stall_s else 0
        for part, pause_s in ((deltas[:half], stage.stall_s), (deltas[half:], 0.0)):
            if not self._per_s:
                for delta in part:
                    yield delta
            else:
                gap_s = 1 / self._per_s
                for i, delta in enumerate(part):
                    wait_s = due + i * gap_s - clock()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                    yield delta
                due += len(part) * gap_s
            if pause_s:
                await asyncio.sleep(pause_s)
                due += pause_s
        if stage.fail:
            raise ChatError(stage.fail)
        yield script.last

    async def aclose(self) -> None:
        """Nothing to release."""

    def _script(self, history: Sequence[ContextMessage]) -> _Script:
        """The reply as ready deltas; the last few hundred are kept, because under load the same is asked again."""
        key = _digest(history)
        script = self._memo.get(key)
        if script is None:
            tokens, cut = _limited(history, self._limit)
            usage = Usage(count_tokens(said.text for said in history), len(tokens))
            last = Delta(finish_reason="length" if cut else "stop", usage=usage)
            stage = directions(history[-1].text if history else "")
            script = _Script(tuple(map(Delta, tokens)), last, stage)
            while len(self._memo) >= _MEMO_SIZE:
                del self._memo[next(iter(self._memo))]
            self._memo[key] = script
        return script


def _digest(history: Sequence[ContextMessage]) -> bytes:
    """What a conversation is known by: BLAKE2b of its roles and texts."""
    parts = (f"{said.role} {len(said.text)} {said.text}\n" for said in history)
    return hashlib.blake2b("".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


# What the reply is made of. The emoji carry joiners, skin tones, flags and a keycap; e, n and o carry combining marks.
_EMOJI = ("👩‍👩‍👧‍👦", "👋🏽", "🇩🇪🇫🇷", "🏳️‍🌈", "👩🏾‍💻", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "❤️‍🔥")
_MARKS = ("a cafe\u0301", "a pin\u0303ata", "Zoe\u0308’s tea", "a re\u0301sume\u0301", "pho\u031b\u0309")
_SEPARATORS = "\u2028\u0085"
_POINTS = (
    ("**Order.**", "Every event has a number, and the numbers have no gaps."),
    ("**Resume.**", "A reader that comes back says what it has, and gets the rest."),
    ("**Cancel.**", "Leaving is not cancelling; only a cancel stops the model."),
    ("**Whitespace.**", "Spaces, tabs and blank lines arrive exactly as they were said."),
    ("**Backpressure.**", "A slow reader waits on its own and holds up nobody else."),
    ("**One log.**", "What you read live and what you read again are the same bytes."),
)
_CODE = (
    'async def read(events):\n    text = ""\n    async for event in events:\n        if event.type == "chunk":\n'
    "            text += event.text\n\n    return text",
    "def backoff_s(attempt: int) -> float:\n    if attempt == 0:\n        return 0.0\n\n"
    "    return min(0.1 * 2**attempt, 5.0)",
    "class Cursor:\n    def __init__(self) -> None:\n        self.after = 0\n\n    def saw(self, seq: int) -> bool:\n"
    "        new = seq == self.after + 1\n        if new:\n            self.after = seq\n        return new",
)
HONEST = "I am an offline stand-in, not a real model; set GEMINI_API_KEY and the real one answers.\n\n"
_TITLES = ("A short answer", "What I can say offline", "In a few words", "One answer, five transports")
_GREETING = re.compile(r"(?i)\s*(hi|hello|hey|hallo|hej|hola|good (morning|evening|day))\b[^\n]{0,24}$")
_FACT = re.compile(r"(?i)\bmy ([\w ]{1,40}?) (?:is|are) (?!what\b)([^.!?\n,;]{1,80})")
_ASKED_FACT = re.compile(r"(?i)\bwhat(?:'s|’s| is| was| are| were) my ([\w ]{1,40}?)\s*(?:\?|$|again\b)")
_ASKED_FIRST = re.compile(r"(?i)\bwhat (?:did|have|was|were) .{0,60}\bfirst\b")
_ASKED_BEFORE = re.compile(r"(?i)\bwhat (?:did|have|was|were) .{0,60}\b(?:before|last|previous(?:ly)?|earlier|just)\b")
_ASKED_COUNT = re.compile(r"(?i)\bhow many (?:\w+ )?(?:messages|questions|turns|things)\b")
_ASKED_ALL = re.compile(r"(?i)\bwhat (?:did|have) i (?:ask|say|said|tell|told)")


def _quote(text: str, max_chars: int = 60) -> str:
    """A message on one line, cut between grapheme clusters."""
    line, tokens = "", split_tokens(" ".join(text[: 8 * max_chars].split()))
    for token in tokens:
        if len(line) + len(token) > max_chars:
            return line.rstrip() + "…"
        line += token
    return line


def _compose(history: Sequence[ContextMessage], message: str) -> str:
    """The whole reply, as one text."""
    # What is longer than a page is read no further: the reply is ready within a millisecond on the event loop.
    earlier = [directions(said.text[:_READ_CHARS]).message for said in history[:-1] if said.role == "user"]
    message = message[:_READ_CHARS]
    turn = len(earlier) + 1
    dice = random.Random(_digest(history))
    emoji, mark = dice.choice(_EMOJI), dice.choice(_MARKS)
    honest = HONEST if turn == 1 else ""
    answer = _recall(earlier, message)
    if answer is None and _GREETING.match(message):
        return f"Hello! {emoji} {honest}Ask me anything over {mark}: I *stream*, I **remember**, I am turn {turn}."
    if answer is not None:
        said = "".join(f"{i}. {_quote(text)}\n" for i, text in enumerate(earlier[-5:], max(1, turn - 5)))
        so_far = f"So far you said:\n\n{said}\n" if said else ""
        return f"{answer} {emoji}\n\n{honest}{so_far}This is turn **{turn}** of our talk, kept warm like {mark}."
    points = "".join(f"- {head} {text}\n" for head, text in dice.sample(_POINTS, 3))
    code = dice.choice(_CODE)
    if dice.random() < 0.5:
        code += f'\n\n\nSEPARATORS = "{_SEPARATORS}"  # two that common line readers split on'
    return (
        f"# {dice.choice(_TITLES)} {emoji}\n\n{honest}You asked, in turn **{turn}**:\n\n> {_quote(message) or '…'}\n\n"
        f"{points}\n"
        f"```python\n{code}\n```\n\nThat is all, over *{mark}*.\n"
    )


def _recall(earlier: Sequence[str], message: str) -> str | None:
    """What the model knows from the turns before, where it is asked for that or told something; else None."""
    if match := _ASKED_FACT.search(message):
        wanted = match[1].casefold()
        for text in reversed(earlier):
            for name, value in _FACT.findall(text):
                if name.casefold() == wanted:
                    return f"Your {match[1]} is **{_fact(value)}**."
        return f"You have not told me your {match[1]} yet."
    if _ASKED_FIRST.search(message):
        return f"Your first message was: “{_quote(earlier[0])}”." if earlier else "This is your first message."
    if _ASKED_COUNT.search(message):
        return f"You have sent {len(earlier) + 1} messages, this one included."
    if _ASKED_BEFORE.search(message) or _ASKED_ALL.search(message):
        return f"Before this you said: “{_quote(earlier[-1])}”." if earlier else "Before this you said nothing."
    if fact := _FACT.search(message):
        return f"Noted: your {fact[1]} is **{_fact(fact[2])}**."
    return None


def _fact(value: str) -> str:
    return re.split(r"(?i)\s+(?:and|but|or)\s+", value.strip())[0]

"""What the offline model says: a pure function of the conversation, the same in every process and on every machine.

A reply remembers the earlier turns. It has Markdown, indented code, emoji with joiners, combining marks, and in some replies
U+2028 and U+0085, so that a transport that damages whitespace or splits lines in the wrong place shows it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from itertools import cycle, islice

from shared.llm.model import ContextMessage
from shared.llm.tokens import COUNTED_CHARS, split_tokens
from shared.stage_directions import Stage, directions, mistake

# Material of the replies. The emoji have joiners, skin tones, flags and a keycap; the words have combining marks.
_EMOJI = ("👩‍👩‍👧‍👦", "👋🏽", "🇩🇪🇫🇷", "🏳️‍🌈", "👩🏾‍💻", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "❤️‍🔥")
_MARKS = ("a cafe\u0301", "a pin\u0303ata", "Zoe\u0308’s tea", "a re\u0301sume\u0301", "pho\u031b\u0309")
_MAX_PADDED_BYTES = 64 * 1024 * 1024
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


def reply_tokens(history: Sequence[ContextMessage], limit: int = 0) -> list[str]:
    """The whole reply to ``history`` in tokens.

    A ``limit`` above 0 gives exactly so many: a longer reply is cut, a shorter one said again after a blank line.
    The direction ``/tokens`` wins over ``limit``.
    """
    tokens, _ = limited_reply(history, limit)
    return tokens


def limited_reply(history: Sequence[ContextMessage], limit: int) -> tuple[list[str], bool]:
    """The tokens of ``reply_tokens``, and whether the reply was cut."""
    stage = directions(history[-1].text if history else "")
    tokens = split_tokens(compose(history, stage.message))
    limit = stage.tokens or limit
    cut = 0 < limit < len(tokens)
    if limit:
        tokens = list(islice(cycle([*tokens, "\n\n"]), limit))
    return _padded(tokens, stage), cut


def _padded(tokens: list[str], stage: Stage) -> list[str]:
    """The tokens in the size that ``/bytes`` asks for; a token that is longer stays as it is."""
    if not stage.token_bytes:
        return tokens
    size = min(stage.token_bytes, _MAX_PADDED_BYTES // len(tokens))
    return [token + "." * (size - len(token.encode("utf-8", "surrogatepass"))) for token in tokens]


def digest(history: Sequence[ContextMessage]) -> bytes:
    """BLAKE2b of the roles and texts of a conversation: two conversations with one digest get the same reply."""
    parts = (f"{said.role} {len(said.text)} {said.text}\n" for said in history)
    return hashlib.blake2b("".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def compose(history: Sequence[ContextMessage], message: str) -> str:
    """The whole reply to ``message`` after ``history``, as one text."""
    # Longer messages are read up to a limit, so that the reply is ready within a millisecond on the event loop.
    earlier = [directions(said.text[:COUNTED_CHARS]).message for said in history[:-1] if said.role == "user"]
    message = message[:COUNTED_CHARS]
    turn = len(earlier) + 1
    dice = random.Random(digest(history))
    emoji, mark = dice.choice(_EMOJI), dice.choice(_MARKS)
    honest = HONEST if turn == 1 else ""
    if wrong := mistake(message):
        honest = f"{wrong} So this is an ordinary message.\n\n{honest}"
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
    """The answer to a question about the earlier messages, or to a told fact; None for any other message."""
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


def _quote(text: str, max_chars: int = 60) -> str:
    """A message on one line of at most ``max_chars``, cut between grapheme clusters."""
    line, tokens = "", split_tokens(" ".join(text[: 8 * max_chars].split()))
    for token in tokens:
        if len(line) + len(token) > max_chars:
            return line.rstrip() + "…"
        line += token
    return line


def _fact(value: str) -> str:
    return re.split(r"(?i)\s+(?:and|but|or)\s+", value.strip())[0]

"""A short session with the shell in a real terminal, as each leaf's README shows it."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from protocols import TRANSPORTS
from protocols.processes import serving
from sequence_diagrams.terminal import PtyTerminal

SETTINGS = {"GENAI_PROVIDER": "offline", "IMAGE_PROVIDER": "offline", "OFFLINE_TOKENS_PER_S": "25"}
QUESTIONS = ("My name is Ada.", "What is my name?")
COLUMNS, ROWS = 100, 40
_PROMPT = re.compile(r"^\S+ \w+ \S ❯.*$")


def session(word: str) -> str:
    """The transcript of two questions; the line is cut during the second answer."""
    return asyncio.run(_served(word, _played))


async def _served(word: str, play: Callable[[str, str, Path], str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        env = {**SETTINGS, "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving(word, env=env) as server:
            return await asyncio.to_thread(play, word, server.address, Path(folder))


def _played(word: str, address: str, folder: Path) -> str:
    port = address.rpartition(":")[2]
    terminal = PtyTerminal(word, {"XDG_STATE_HOME": str(folder)}, "--port", port, columns=COLUMNS, rows=ROWS)
    try:
        terminal.wait(r" · offline-1 \(offline\)")
        terminal.do(f"{QUESTIONS[0]}\r", rf"^{word} · ")
        begun = r"So far you said" if TRANSPORTS[word].tokens else r"waiting for the first token · \d\.\d s"
        terminal.do(f"{QUESTIONS[1]}\r", begun)
        terminal.do("/cut\r", r"^── back after ")
        terminal.wait(r"\(sha256 compared\)$")
        # The transcript ends here, without the prompt of the next question and without the words on leaving.
        rows = [row.rstrip() for row in terminal.text.split("\n")]
        terminal.type("\x04")
        terminal.left()
    finally:
        terminal.close()
    shown = "\n".join(row for row in rows if not _PROMPT.match(row)).strip("\n")
    shown = shown.replace(address, TRANSPORTS[word].address)
    return f"```text\n$ python -m protocols chat {word}\n{shown}\n```\n"

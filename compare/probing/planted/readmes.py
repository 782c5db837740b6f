"""The proxy lines of the five READMEs, as they stand there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from protocols import TRANSPORTS

LANGUAGES = {"nginx": "nginx", "haproxy": "haproxy", "caddy": "caddyfile"}
_FOLDERS = Path(__file__).resolve().parents[3] / "protocols"


def block(word: str, language: str) -> str:
    """The one block of a language in a leaf's README."""
    text = (_FOLDERS / TRANSPORTS[word].folder / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^  ```{language}\n(.*?)^  ```$", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found)


def readme_config(program: str, port: int, target: str, word: str) -> str:
    """The lines of a leaf's README for a program, on this port of the loopback address and to this server."""
    lines = block(word, LANGUAGES[program])
    if TRANSPORTS[word].address not in lines:
        raise ValueError(f"{word}: the README's lines for {program} do not name {TRANSPORTS[word].address}")
    lines = lines.replace(TRANSPORTS[word].address, target)
    lines = re.sub(r"listen 8\d+", f"listen 127.0.0.1:{port}", lines)
    lines = lines.replace("bind :8080", f"bind 127.0.0.1:{port}")
    return re.sub(r"^:8080 ", f"http://127.0.0.1:{port} ", lines, flags=re.MULTILINE)

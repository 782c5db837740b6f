"""The documents: the five pages have one shape, links lead somewhere, commands that are named exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocols import TRANSPORTS

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = [
    "Run it",
    "On the wire",
    "Order of events",
    "When it breaks",
    "Limits",
    "Choose it when",
    "Read more",
]
LEAVES = [f"protocols/{transport.folder}/README.md" for transport in TRANSPORTS.values()]
DOCS = [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "protocols/grpc/FROM_REST_TO_GRPC.md", *LEAVES, *DOCS]
WORD = re.compile(r"[\w’'./-]*[A-Za-z][\w’'./-]*")


@pytest.mark.parametrize("page", LEAVES)
def test_the_five_pages_have_one_shape(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in targets if not (ROOT / page).parent.joinpath(link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    for word, path in re.findall(r"python (protocols/(\w+)/\w+\.py)", text):
        assert (ROOT / word).exists(), path
    for command, word in re.findall(r"python -m protocols (serve|chat|image) (\w+)", text):
        assert word in TRANSPORTS or (command, word) == ("serve", "all")


def test_the_table_of_ports() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for transport in TRANSPORTS.values():
        (line,) = re.findall(rf"^python protocols/{transport.folder}/server\.py +.*$", text, re.MULTILINE)
        assert f"127.0.0.1:{transport.default_port}" in line


def test_the_readmes_first_screen_answers() -> None:
    """The first 150 words name each transport and the need that it meets. The whole page has at most 1,500 words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = list(WORD.finditer(text))
    assert len(words) <= 1500
    answers = dict(re.findall(r"^\| ([^|]+) \| \*\*([^|]+)\*\* \|", text[: words[149].end()], re.MULTILINE))
    assert sorted(answers.values()) == ["NDJSON", "REST", "Server-Sent Events", "WebSocket", "gRPC"]


def test_every_page_is_linked() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page for page in DOCS if f"]({page})" not in text]

"""The documents: the five pages have one shape, links lead somewhere, commands that are named exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from compare.__main__ import COMMANDS
from protocols import TRANSPORTS
from protocols.__main__ import main as protocols_main

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
# The sixth transport that CONTRIBUTING.md makes, and a folder of the original.
NOT_HERE = ("protocols/long_poll/", "protocols/streamble_http")
# A method of a service that docs/who-uses-what.md names.
FOREIGN = {"BidiGenerateContent"}
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


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:protocols|shared|compare|sequence_diagrams|tests|docs)/[\w./-]*)`", text))
    assert not {path for path in named if not path.startswith(NOT_HERE) and not (ROOT / path).exists()}


@pytest.mark.parametrize("page", PAGES)
def test_names_that_stand_beside_a_file_are_in_it(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, path in re.findall(r"`(\w+)`\s+in\s+\[[^]]*\]\(([\w./]+\.(?:py|proto))\)", text):
        assert re.search(rf"\b{name}\b", (ROOT / page).parent.joinpath(path).read_text(encoding="utf-8")), (name, path)


def test_names_of_classes_exist() -> None:
    sources = [path for folder in ("protocols", "shared", "compare") for path in (ROOT / folder).rglob("*.py")]
    sources += [*(ROOT / "protocols").rglob("*.proto"), *(ROOT / "shared" / "web").rglob("*.js")]
    known = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert {name for name in named if not re.search(rf"\b{name}\b", known)} <= FOREIGN


def test_options_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Each ``--option`` that stands behind a command in a document is in that command's help."""
    named: dict[tuple[str, ...], set[str]] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for program, command, more in re.findall(r"python -m (compare|protocols) ([a-z]+)([^`|#\n]*)", text):
            words = more.split()[:1] if command in ("serve", "chat", "image") else []
            options = re.findall(r"(?<!\S)--[a-z][\w-]*", more)
            named.setdefault((program, command, *words), set()).update(options)
    assert sum(map(len, named.values())) > 10
    for (program, *command), wanted in named.items():
        if not wanted:
            continue
        with pytest.raises(SystemExit) as exit_:
            _main(program, [*command, "--help"])
        assert exit_.value.code == 0
        helped = capsys.readouterr().out
        assert {option for option in wanted if option not in helped} == set(), (program, command)


def _main(program: str, arguments: list[str]) -> int:
    if program == "protocols":
        return protocols_main(arguments)
    name, *rest = arguments
    return int(importlib.import_module(COMMANDS[name][0]).main(rest))


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

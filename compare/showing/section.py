"""A part of a report that stands by itself: a table, sentences and a picture. A terminal, Markdown and a page show the same."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocols.live import say


class Section(msgspec.Struct, kw_only=True):
    """``rows`` have as many cells as ``heads``; ``svg`` is a picture as text, empty where there is none."""

    name: str
    title: str
    about: str
    heads: list[str]
    rows: list[list[str]]
    sentences: list[str]
    svg: str = ""


def show(console: Console, section: Section) -> None:
    """Print the section's table and sentences."""
    console.print()
    console.print(Text(section.title, style="bold"))
    say(console, section.about)
    table = Table()
    for nth, head in enumerate(section.heads):
        table.add_column(head, justify="right" if nth else "left")
    for row in section.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for sentence in section.sentences:
        say(console, sentence, indent=2)


def markdown(section: Section, folder: str = "plots") -> str:
    """The section as Markdown; its picture is the file of its name in ``folder``."""
    picture = [f"![{section.title}]({folder}/{section.name}.svg)", ""] if section.svg else []
    lines = [section.heads, *section.rows]
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    table = [head, "|---|" + "---:|" * (len(section.heads) - 1), *rest]
    said = [f"- {sentence}" for sentence in section.sentences]
    return "\n".join([f"## {section.title}", "", section.about, "", *picture, *table, "", *said, ""])


def html(section: Section) -> str:
    """The section as HTML."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in section.heads)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows)
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.sentences)
    label = escape(section.title)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f'<section id="{section.name}"><h2>{label}</h2><p>{escape(section.about)}</p>{section.svg}'
        f'<div class="table" tabindex="0" role="region" aria-label="{label}">{table}</div><ul>{said}</ul></section>'
    )


def write(folder: Path, name: str, sections: Sequence[Section], records: Sequence[msgspec.Struct]) -> list[Path]:
    """Write ``NAME.json`` (the sections), ``NAME.jsonl`` (what they follow from), ``NAME.md`` and the pictures."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{end}" for end in ("json", "jsonl", "md")]
    files[0].write_bytes(msgspec.json.format(msgspec.json.encode(sections), indent=1))
    files[1].write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    files[2].write_text("\n".join(map(markdown, sections)), encoding="utf-8")
    for section in sections:
        if section.svg:
            (folder / "plots" / f"{section.name}.svg").write_text(section.svg, encoding="utf-8")
    return files


def read(folder: Path, name: str) -> list[Section]:
    """The sections that ``write`` left under this name; none where there is no such file."""
    path = folder / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=list[Section]) if path.exists() else []

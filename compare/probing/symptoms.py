"""``python -m compare.probing.symptoms``: writes the part of ``docs/symptoms.md`` that comes from the advice."""

from __future__ import annotations

from pathlib import Path

from compare.probing.advice import ADVICE, TRIED
from compare.probing.services import PRODUCTS
from protocols import TRANSPORTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "symptoms.md"
BEGIN, END = "<!-- made: python -m compare.probing.symptoms -->", "<!-- end -->"


def made(page: str) -> str:
    """The page with the table between its marks."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


def table() -> str:
    """A row for each finding, in the order of the harm."""
    rows = ["| what you see | cause *and check* | what to change | who does not have it |", "|---|---|---|---|"]
    for row in ADVICE.values():
        cures = [f"{product}: {cure}" for product, cure in row.cures.items()]
        cures += [f"{product}: {known.setting} ([page]({known.page}))" for product, known in row.documented.items()]
        change = "<br>".join([*([row.here] if row.here else []), *cures])
        unharmed = ", ".join(TRANSPORTS[word].label for word in row.unharmed) or "none"
        rows.append(f"| {row.sees} | {row.cause} *({row.check})* | {change} | {unharmed} |")
    documented = " and ".join(PRODUCTS)
    return "\n".join(
        [*rows, "", f"The settings were {TRIED}; those of {documented} come from the pages that are linked."]
    )


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

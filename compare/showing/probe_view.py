"""The probe while it runs, and what it found: a live table of the checks, then the findings in the order of their harm."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compare.probing.advice import ADVICE, TRIED
from compare.probing.outcome import Finding, Outcome
from compare.probing.services import PRODUCTS
from protocols.live import LiveView

_NAME_WIDTH = 13
_LABEL_WIDTH = 16
_USUAL_S = 65


class ProbeView(LiveView):
    """The checks of one path, each with its outcome so far."""

    def __init__(self, console: Console, title: str, checks: Sequence[str]) -> None:
        super().__init__(console)
        self._title = title
        self._checks = checks
        self._outcomes: dict[str, Outcome] = {}

    def tell(self, check: str, outcome: Outcome) -> None:
        """A check has ended."""
        self._outcomes[check] = outcome
        self.step(f"{check:<{_NAME_WIDTH}} {outcome.words}")

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=_NAME_WIDTH, no_wrap=True)
        table.add_column()
        for check in self._checks:
            table.add_row(Text(check, style="bold cyan"), self._words(check))
        return Group(Text(f"{self._title}  {self.elapsed_s:.0f} s", style="bold"), table)

    def _words(self, check: str) -> Text:
        outcome = self._outcomes.get(check)
        if outcome is None:
            return Text("…", style="dim")
        if outcome.findings:
            return Text(outcome.words, style="bold red")
        return Text(outcome.words, style="green" if outcome.judged else "yellow")


def show_findings(console: Console, findings: Sequence[Finding], product: str | None, patience_s: float) -> None:
    """Print the findings with what they mean and what to change; ``product`` is the one that a hop has named itself."""
    console.print()
    if not findings:
        console.print("No finding: the path passes the stream on as the server sends it.", style="bold green")
        _show_patience(console, patience_s)
        return
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings, the most harmful first"
    console.print(count, style="bold")
    for number, finding in enumerate(findings, 1):
        advice = ADVICE[finding.kind]
        console.print()
        console.print(f"{number}. {advice.title}", style="bold red", markup=False)
        rows = [("measured", finding.measured), ("for an answer", advice.meaning(finding)), ("cause", advice.cause)]
        cures = dict(advice.cures)
        cures |= {name: f"{known.setting} <{known.page}>" for name, known in advice.documented.items()}
        if product in cures:
            rows.append((product or "", cures.pop(product or "")))
        rows += [*cures.items(), *([("here", advice.here)] if advice.here else [])]
        if advice.unharmed:
            rows.append(("do not suffer", ", ".join(advice.unharmed)))
        console.print(_rows(rows))
    console.print()
    documented = " and ".join(PRODUCTS)
    console.print(f"The settings were {TRIED}; {documented}: from their documentation.", style="dim", markup=False)
    _show_patience(console, patience_s)


def _show_patience(console: Console, patience_s: float) -> None:
    """Say which time-outs this run could not find; 60 s is the usual one."""
    if patience_s < _USUAL_S:
        words = (
            f"Silences and streams of up to {patience_s:g} s were tried; --patience {_USUAL_S} finds a cut after 60 s."
        )
        console.print(words, style="dim", markup=False)


def _rows(rows: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_LABEL_WIDTH, no_wrap=True, style="cyan")
    table.add_column()
    for label, text in rows:
        table.add_row(label, Markdown(text))
    return Padding(table, (0, 0, 0, 3))

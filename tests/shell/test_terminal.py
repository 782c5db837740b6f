"""The terminal itself: line editing, history, control characters, pictures."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.shell.helpers import ALT_ENTER, CTRL_C, CTRL_D, TAB, UP, Open, quiet, session_of


def test_line_editing(shell: Open, env: dict[str, str]) -> None:
    terminal = shell("sse")
    terminal.do("/sw", r"^ +switch +the same session over")
    terminal.do(TAB, r"❯ /switch$")
    terminal.do(" ", r"^ +websocket +WebSocket")
    terminal.type("r")
    while "WebSocket" in "\n".join(terminal.screen.display):
        assert terminal.read()
    terminal.do(TAB, r"❯ /switch rest")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do("one" + ALT_ENTER + "two\\\r  three\r", quiet("sse"))
    terminal.wait(r"^❯ one\n  two\n    three$")
    session = session_of(terminal)
    terminal.do("/use ", rf"{session[:8]} +2 messages")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do("/delete\r", r"\[y/N\]")
    terminal.do("no\r", r"turns\? no$")
    terminal.type(CTRL_D)
    assert terminal.left() == 0

    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = shell("grpc")
    # An answer to a question is no line.
    again.do(UP, r"❯ /delete$")
    again.do(UP * 2, r"❯ one$")


def test_history_that_others_could_read_is_closed_to_them(shell: Open, env: dict[str, str]) -> None:
    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    history.parent.mkdir(parents=True)
    history.write_text("")
    history.chmod(0o644)
    shell("rest")
    assert history.stat().st_mode & 0o777 == 0o600


def test_controls_are_shown_and_never_obeyed(shell: Open) -> None:
    """A title, a bell, a cleared screen: said by the user, repeated by the model, seen by both as signs."""
    terminal = shell("sse")
    hostile = "say \x1b]0;owned\x07 \x1b[2J \x9b31m ok"
    terminal.do(f"\x1b[200~{hostile}\x1b[201~\r", quiet("sse"))
    assert terminal.count(r"say ␛\]0;owned␇ ␛\[2J \ufffd31m ok") == 2
    assert terminal.screen.title == ""
    written = terminal.raw.partition("sse ● ❯")[2]
    assert "\x1b]0;" not in written
    assert "\x07" not in written
    assert "\x9b" not in written


@pytest.mark.parametrize(
    ("da1", "kitty", "drawn"),
    [("\x1b[?62;4c", False, "\x1bP"), ("\x1b[?6c", True, "\U0010eeee"), ("\x1b[?6c", False, "▀")],
    ids=["sixel", "kitty", "half-blocks"],
)
def test_pictures_as_the_terminal_can(shell: Open, tmp_path: Path, da1: str, kitty: bool, drawn: str) -> None:
    terminal = shell("sse", da1=da1, kitty=kitty)
    terminal.do("/image a lighthouse --size 128x96\r", r"^a-lighthouse\.png +128x96, ")
    assert drawn in terminal.raw
    assert ("\x1b_Ga=p" in terminal.raw or "U=1" in terminal.raw) == kitty
    terminal.do("/image a lighthouse --size 64x64\r", r"^a-lighthouse-2\.png +64x64, ")
    # The answers of the terminal went to who asked, not to the line.
    terminal.wait(r" sse ● ❯ a message")
    assert (tmp_path / "a-lighthouse-2.png").read_bytes().startswith(base64.b64decode("iVBORw0K"))

"""The terminal itself: line editing, history, control characters, pictures."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from shared.client.shell.terminal import open_history
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
    terminal.do("/use ", rf"{session[:8]} +one two three · 2 messages")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do("/delete\r", r"\[y/N\]")
    terminal.do("no\r", r"turns\? no$")
    terminal.type(CTRL_D)
    assert terminal.left() == 0

    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = shell("grpc")
    # The answer to a question of the shell is not in the history.
    again.do(UP, r"❯ /delete$")
    again.do(UP * 2, r"❯ one$")


def test_history_that_others_could_read_is_closed_to_them(shell: Open, env: dict[str, str]) -> None:
    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    history.parent.mkdir(parents=True)
    history.write_text("")
    history.chmod(0o644)
    shell("rest")
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_written_costs_no_line(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = open_history(path, lambda: False)
    history.append_string("one")
    path.unlink()
    path.mkdir()
    history.append_string("two")
    assert history.get_strings() == ["one", "two"]


def test_controls_are_shown_and_never_obeyed(shell: Open) -> None:
    """A title, a bell, a cleared screen: the user types them, the model repeats them, and the terminal shows signs."""
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
    # The answers of the terminal did not go into the input line.
    terminal.wait(r" sse ● ❯ a message")
    assert (tmp_path / "a-lighthouse-2.png").read_bytes().startswith(base64.b64decode("iVBORw0K"))


def test_bytes_that_are_not_utf8_are_typed_and_pasted(shell: Open) -> None:
    """The valid part of the line is sent, with a remark. The history keeps the line, and the shell goes on."""
    terminal = shell("sse")
    terminal.do("caf\udce9\r", quiet("sse"))
    terminal.wait(r"^this line was not valid UTF-8: ")
    terminal.do("\x1b[200~na\udcefve\x1b[201~\r", quiet("sse"))
    assert terminal.count(r"^❯ caf\ufffd$") == 1
    assert terminal.count(r"^❯ na\ufffdve$") == 1
    terminal.do(UP, r"❯ na.ve$")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    assert "Traceback" not in terminal.raw


def test_no_color_is_honoured(shell: Open) -> None:
    """No sequence sets a colour; bold, dim and underline stay."""
    terminal = shell("sse", more={"NO_COLOR": "1"})
    terminal.do("Tell me about code.\r", quiet("sse"))
    codes = {code for sgr in re.findall(r"\x1b\[([\d;]*)m", terminal.raw) for code in sgr.split(";")}
    assert not [code for code in codes if re.fullmatch(r"[349]\d|10[0-7]", code)], codes
    # Half-blocks without colours would be a grey wall.
    terminal.do("/image a lighthouse --size 64x64\r", r"^a-lighthouse\.png +64x64, ")
    assert "▀" not in terminal.raw


def test_a_dumb_terminal_has_a_banner_a_prompt_and_ctrl_c(shell: Open) -> None:
    terminal = shell("ndjson", more={"TERM": "dumb"}, columns=50, ready=r"^new ndjson ● ❯ ?$")
    # Lines are broken between words, before the terminal breaks them.
    assert max(len(line) for line in terminal.raw.split("\r\n")) <= 50
    terminal.do("My name is Ada.\r", r"^[0-9a-f]{8} ndjson ● ❯")
    assert "Noted: your name is **Ada**." in terminal.text
    terminal.do("/stall 60 wait\r", r"You asked")
    terminal.do(CTRL_C, r"^stopped, partial answer kept\n[0-9a-f]{8} ndjson ● ❯")
    terminal.do("\r", r"^[0-9a-f]{8} ndjson ● ❯")
    terminal.do("say \x9b31m \u202e ok\r", r"say \ufffd31m \ufffd ok")
    terminal.do("/delete\r", r"\[y/N\]")
    terminal.do("\r", r"^nothing was changed$")
    terminal.do("/delete\r", r"\[y/N\]")
    terminal.do("y\r", r"^deleted; ")
    terminal.do(CTRL_C, r"^Ctrl-C once more within 2 s leaves$")
    terminal.type(CTRL_C)
    assert terminal.left() == 0
    assert re.search(r"❯ (\^C)?\r\n$", terminal.raw)
    assert "\x1b" not in terminal.raw
    assert "Traceback" not in terminal.raw


def test_one_message_on_a_terminal_is_shown_and_not_obeyed(shell: Open) -> None:
    """In one-shot mode no text of a model makes the terminal act, also as raw JSON. Thinking is shown with its time."""
    hostile = "say \x1b]0;owned\x07 \x1b[2J \u202e\u2066 ok"
    plain = shell("sse", "/think 2.5 " + hostile, ready=r"^thinking, 1 s$")
    plain.wait(r"say ␛\]0;owned␇ ␛\[2J \ufffd\ufffd ok")
    assert plain.left() == 0
    raw = shell("sse", "--json", hostile, ready=r'"type": ?"turn_completed"')
    assert raw.left() == 0
    for terminal in (plain, raw):
        assert terminal.screen.title == ""
        for char in "\x07\u202e\u2066":
            assert char not in terminal.raw
    assert "\\u202e" in raw.raw


def test_only_two_ctrl_c_at_an_empty_prompt_leave(shell: Open) -> None:
    """A Ctrl-C that stopped an answer, or cleared what was typed, is not the first of two."""
    terminal = shell("sse")
    terminal.do(" /stall 60 wait\r", r"You asked")
    terminal.do(CTRL_C, r"^stopped, partial answer kept")
    terminal.do(CTRL_C, r"^Ctrl-C once more within 2 s leaves$")
    terminal.do("typed", r"❯ typed$")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do(CTRL_C, r"^Ctrl-C once more within 2 s leaves$")
    terminal.type(CTRL_C)
    assert terminal.left() == 0

"""What a user does while an answer arrives: stop, cut, switch, type, leave."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.shell.helpers import CTRL_C, CTRL_D, Open, quiet, session_of


def test_ctrl_c_at_each_moment(shell: Open, word: str) -> None:
    terminal = shell(word)
    # With text on the line, Ctrl-C only clears the line. At the empty prompt it asks for a second Ctrl-C.
    terminal.do("half a thou", r"❯ half a thou$")
    terminal.do(CTRL_C, rf" {word} ● ❯ a message")
    # Before the first token.
    terminal.do(" /slow 60 early\r", r"waiting for the " + ("whole reply" if word == "rest" else "first token"))
    terminal.do(CTRL_C, rf"^stopped · {word} · [\d.]+ m?s$")
    # In the middle of an answer, with something typed that stays.
    terminal.do(" /stall 60 midway\r", r"You asked" if word != "rest" else r"waiting for the whole reply · \d\.\d s")
    terminal.type("kept")
    terminal.do(CTRL_C, rf"^stopped, partial answer kept · {word}")
    terminal.wait(r"❯ kept$")
    terminal.do(CTRL_C, rf" {word} ● ❯ a message")
    # While a picture is drawn. Neither plain REST nor a stream shows that as a failure.
    terminal.do("/image /slow 60 a fox\r", r"waiting for the picture")
    terminal.do(CTRL_C, rf"^stopped · {word} · [\d.]+ m?s$")
    # While a question waits.
    terminal.do("/delete\r", r"Delete session .*\[y/N\]")
    terminal.do(CTRL_C, r"turns\? no$")
    # The messages stay in the session, and the next turn is accepted.
    terminal.do("And now?\r", quiet(word))
    terminal.do("/history\r", r"^stopped, partial answer kept$")
    assert terminal.count(r"^❯ /slow 60 early\nstopped$") == 1
    # Two Ctrl-C in a row at the prompt end the shell.
    terminal.do(CTRL_C, r"^Ctrl-C once more within 2 s leaves$")
    terminal.type(CTRL_C)
    assert terminal.left() == 0
    assert "Traceback" not in terminal.raw


@pytest.mark.parametrize("word", ["rest", "websocket"])
def test_leaving_in_the_middle_says_how_to_come_back(shell: Open, word: str) -> None:
    terminal = shell(word)
    terminal.do(" /stall 60 midway\r", r"You asked" if word != "rest" else r"waiting for the whole reply · \d\.\d s")
    session = session_of(terminal)
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    assert "goes on at the server for the server's grace period" in terminal.text
    assert f"python -m protocols chat {word} --session {session}" in terminal.text
    # A shell on another transport shows the question, and the answer from its start.
    other = "sse" if word != "sse" else "grpc"
    again = shell(other, "--session", session, ready=r"You asked")
    again.wait(r"^someone else ❯ /stall 60 midway$")
    again.do("/stop\r", r"^stopped, partial answer kept · ")
    again.type(CTRL_D)
    assert again.left() == 0


def test_cut_and_resized_in_the_middle(shell: Open, word: str) -> None:
    terminal = shell(word)
    waiting = r"waiting for the whole reply · \d\.\d s" if word == "rest" else r"You asked"
    terminal.do(" /stall 2 hold on\r", waiting)
    terminal.do("/cut\r", r"^── lost (after seq \d+|before the first event): .*; trying again ──$")
    terminal.wait(r"^── back after .*, (going on with seq \d+|from the first event) ──$")
    terminal.wait(quiet(word))
    terminal.wait(r"nothing lost, nothing twice \(sha256 compared\)$")
    assert terminal.count(r"^You asked, in turn 1:$") == 1
    assert terminal.count(r"^That is all, over ") == 1
    terminal.do("/stats\r", r"^reconnects +[1-9]")
    terminal.wait(r"^resumes +[1-9]")

    terminal.do(" /stall 2 shrink\r", r"waiting for the whole reply" if word == "rest" else r"You asked, in turn 2")
    for count, (columns, rows) in enumerate(((60, 20), (140, 12), (45, 40), (120, 30)), 1):
        terminal.resize(columns, rows)
        terminal.type("x")
        terminal.wait(rf"❯ x{{{count}}}$")
    terminal.wait(quiet(word), 2)
    assert terminal.count(r"^That is all, over ") == 2
    # The counts are read between two frames.
    terminal.wait(r" ❯ xxxx$")
    assert terminal.count(r" ❯ x") == 1
    assert "Traceback" not in terminal.raw


def test_switch_in_the_middle(shell: Open) -> None:
    """One answer over all five, each seam shown, each event once."""
    terminal = shell("ndjson", columns=150)
    terminal.do(" /stall 4 over all of them\r", r"You asked")
    ways = ["ndjson", "grpc", "rest", "websocket", "sse"]
    for before, after in pairwise(ways):
        terminal.do(f"/switch {after}\r", rf"^── {before} → {after}: the same turn goes on, after seq \d+ ──$")
        terminal.wait(rf" {after} \S ❯")
    terminal.wait(r"^" + " → ".join(ways) + r" · first token .* chunks$")
    terminal.wait(r"^events ndjson 1–\d+, .*nothing lost, nothing twice \(sha256 compared\)$")
    assert terminal.count(r"^You asked, in turn 1:$") == 1
    assert terminal.count(r"^That is all, over ") == 1
    terminal.do("/switch grpc\r", r"^now over gRPC at .*, the same session$")
    terminal.do(
        "/switch tin\r", r"^There is no transport tin; type /switch and one of rest, ndjson, sse, websocket, grpc\.$"
    )
    terminal.do("And what was that?\r", quiet("grpc"))
    terminal.do("/stats\r", r"^this client +ndjson .*grpc .*rest .*websocket .*sse$")


def test_switch_away_from_a_reply_that_is_waited_for(shell: Open) -> None:
    """Plain REST has not told the turn's id yet, so the shell finds the turn by the key of the request."""
    terminal = shell("rest")
    terminal.do(" /stall 2 no patience\r", r"waiting for the whole reply · \d\.\d s")
    terminal.do("/switch websocket\r", r"^── rest → websocket: the same turn goes on, from the first event ──$")
    terminal.wait(r"^rest → websocket · .* chunks$")
    assert terminal.count(r"^That is all, over ") == 1


def test_nothing_blocks(shell: Open) -> None:
    """Typing while an answer streams; commands at once; messages one after the other."""
    terminal = shell("sse")
    terminal.do(" /stall 2 slowly\r", r"You asked")
    terminal.do("/ping\r", r"^5 round trips over Server-Sent Events")
    terminal.do("second\r", r"^next ❯ second$")
    terminal.do("third", r"❯ third$")
    terminal.wait(quiet("sse"), 2)
    assert terminal.count(r"^❯ second$") == 1
    terminal.do("\r", quiet("sse"))
    assert terminal.count(r"^❯ third$") == 1


def test_new_and_use_in_the_middle(shell: Open) -> None:
    terminal = shell("grpc")
    terminal.do(" /stall 60 go on alone\r", r"You asked")
    first = session_of(terminal)
    terminal.do("/new\r", rf"the answer in {first[:8]} goes on at the server")
    terminal.do("Meanwhile here\r", quiet("grpc"))
    terminal.do("/sessions\r", rf"{first[:8]} .*an answer is running")
    terminal.do(f"/use {first[:8]}\r", r"^❯ /stall 60 go on alone$")
    terminal.do("/reset\r", r"\[y/N\]")
    terminal.do("y\r", r"turn_in_progress: .*\(/stop stops it\)")
    terminal.do("/stop\r", r"^stopped, partial answer kept · grpc")


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_terminal_that_hangs_up_ends_the_shell(shell: Open, tmp_path: Path, term: str) -> None:
    """In the middle of an answer, and without a traceback where stderr is no part of the terminal."""
    errors = tmp_path / "errors"
    command = f"exec '{sys.executable}' -m protocols chat sse 2> '{errors}'"
    terminal = shell("sse", more={"TERM": term}, ready="❯", program=("/bin/sh", "-c", command))
    terminal.type("/tokens 20 /stall 30 hello" + ("\n" if term == "dumb" else "\r"))
    terminal.wait("hello[^$]*\n.*[a-zA-Z]")
    assert terminal.hang_up() == 0
    assert "Traceback" not in errors.read_text()

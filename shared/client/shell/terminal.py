"""A terminal: the input line stays at the bottom while replies scroll above it. The input line is prompt_toolkit's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session, in_terminal
from prompt_toolkit.application.current import set_app
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import ANSI, FormattedText, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.patch_stdout import patch_stdout

from shared.client import text
from shared.client.shell.job_control import job_control, stop_here, stop_in_background
from shared.client.shell.painter import Painter, Renderable
from shared.client.shell.screen import EnteredLine, Input, Interrupt, Resized, Screen, Typing

_FRAME_S = 1 / 30
_HINT_COLUMNS = 60
_HISTORY_MODE = 0o600


class Terminal(Screen):
    """See Screen. Rows are written above the input line, which is then drawn again."""

    attended = True
    draws = True

    def __init__(
        self, *, plain: bool, completer: Completer, history: Path | None, unrecorded: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._output: Output = (
            _BufferedOutput.from_pty(sys.stdout, term=os.environ.get("TERM")) if _is_vt100() else create_output()
        )
        self.painter = Painter(lambda: self._output.get_size().columns, plain=plain)
        self._inputs: asyncio.Queue[Input | None] = asyncio.Queue()
        self._shown: StyleAndTextTuples = []
        self._hint = ""
        self._size = self._output.get_size()
        self._leaving = False
        self._modes = contextlib.ExitStack()
        self._session: PromptSession[str] = PromptSession(
            self._message,
            output=self._output,
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
            history=open_history(history, unrecorded),
            completer=completer,
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            key_bindings=self._keys(),
            prompt_continuation=lambda width, number, soft: " " * width if soft else " " * (width - 2) + "· ",
            placeholder=self._placeholder,
            erase_when_done=True,
            reserve_space_for_menu=6,
        )
        self._session.default_buffer.accept_handler = self._accepted
        self._session.default_buffer.on_text_changed += lambda buffer: self._inputs.put_nowait(Typing(buffer.text))
        self._app = self._session.app
        self._app.min_redraw_interval = _FRAME_S
        self._on_resize = self._app._on_resize
        self._app._on_resize = self._resized  # type: ignore[method-assign]
        self._app.before_render += lambda app: self._notice_size()

    async def inputs(self) -> AsyncIterator[Input]:
        with (
            create_app_session(output=self._output),
            patch_stdout(),
            job_control(self._stop, self._continued),
            self._modes,
        ):
            self._update_footer()
            prompting = asyncio.create_task(self._session.prompt_async(handle_sigint=True))
            prompting.add_done_callback(lambda _: self._inputs.put_nowait(None))
            try:
                while (item := await self._inputs.get()) is not None:
                    yield item
            finally:
                self.leave()
                with contextlib.suppress(EOFError):
                    await prompting

    def rows(self, rows: Iterable[str]) -> None:
        written = "".join(f"{row}\n" for row in rows)
        if not written:
            return
        with self._above():
            self._output.write_raw(written)

    def note(self, renderable: Renderable, width: int | None = None) -> None:
        self.rows(self.painter.rows(renderable, width))

    def raw(self, text: str) -> None:
        with self._above():
            self._output.write_raw(text)

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        """Write where the input line stands, and draw it again below: one write to the terminal, so that nothing flickers."""
        held = self._output if isinstance(self._output, _BufferedOutput) else contextlib.nullcontext()
        running = self._app.is_running and not self._app._running_in_terminal
        with held:
            if running:
                self._app.renderer.erase()
            self._output.enable_autowrap()
            yield
            self._output.flush()
            if running:
                self._update_footer()
                self._app.renderer.reset()
                # invalidate() would draw later, and leave a frame without the input line.
                self._app._redraw()

    def ask(self, prompt: str) -> None:
        return

    def refresh(self) -> None:
        if self._update_footer():
            self._app.invalidate()

    def _update_footer(self) -> bool:
        footer = self.footer()
        before, self._hint = self._shown, footer.hint
        self._shown = [*to_formatted_text(ANSI("".join(f"{row}\n" for row in footer.live))), *footer.prompt]
        return self._shown != before

    @property
    def live_height(self) -> int:
        typed = self._session.default_buffer.document.line_count
        return max(3, self._output.get_size().rows - typed - 2)

    def set_line(self, text: str) -> None:
        self._session.default_buffer.reset()
        self.add(text)

    def add(self, text: str) -> None:
        self._session.default_buffer.insert_text(text)

    def clear(self) -> None:
        self._app.renderer.clear()

    def leave(self) -> None:
        if self._app.is_running and not self._leaving:
            self._leaving = True
            self._app.exit(exception=EOFError)

    @contextlib.asynccontextmanager
    async def bare(self) -> AsyncIterator[None]:
        # The caller runs in another context, where this is not the current application.
        with create_app_session(output=self._output), set_app(self._app):
            async with in_terminal():
                yield

    def _stop(self, *, group: bool = False) -> None:
        """Stop this process, or its process group, with the terminal as it was before the shell."""
        if self._app.is_running:
            self._app.create_background_task(self._stop_bare(group=group))

    async def _stop_bare(self, *, group: bool) -> None:
        async with self.bare():
            stop_here(group=group)

    def _continued(self) -> None:
        """After a SIGSTOP: the user's shell has set the terminal's modes and written where the input line was."""
        if stop_in_background() or not self._app.is_running or self._app._running_in_terminal:
            return
        self._modes.enter_context(self._app.input.raw_mode())
        self._app.renderer.reset()
        self._app._redraw()

    def _message(self) -> StyleAndTextTuples:
        return self._shown

    def _accepted(self, buffer: object) -> bool:
        """Enter: hand out the text and empty the input line, which stays."""
        given = self._session.default_buffer.text
        line = text.entered(given)
        self._inputs.put_nowait(EnteredLine(line, damaged=line != given))
        return False

    def _placeholder(self) -> FormattedText:
        """The hint, where it fits on one row."""
        fits = self._output.get_size().columns >= _HINT_COLUMNS
        return FormattedText([("fg:ansibrightblack", self._hint)] if fits else [])

    def _resized(self) -> None:
        """Most terminals wrap rows again in a narrower window: move up by the rows that this added, before the footer is erased."""
        drawn = self._app.renderer.last_rendered_screen
        columns = self._output.get_size().columns
        if drawn is not None and _breaks_rows_anew(os.environ):
            at = drawn.get_cursor_position(self._app.layout.current_window)
            widths = [
                max((x + 1 for x, cell in drawn.data_buffer[y].items() if cell.char != " "), default=0)
                for y in range(at.y)
            ]
            self._output.cursor_up(sum(max(width - 1, 0) // columns for width in widths) + at.x // columns)
        self._on_resize()

    def _notice_size(self) -> None:
        size = self._output.get_size()
        if size != self._size:
            self._size = size
            self._inputs.put_nowait(Resized())

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @Condition
        def backslash() -> bool:
            document = self._session.default_buffer.document
            return document.is_cursor_at_the_end and document.text.endswith("\\")

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("enter", filter=backslash & has_focus("DEFAULT_BUFFER"))
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.delete_before_cursor()
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            self._inputs.put_nowait(Interrupt(typed=bool(event.current_buffer.text)))

        @keys.add("c-z")
        def _(event: KeyPressEvent) -> None:
            self._stop(group=True)

        @keys.add("c-d", filter=Condition(lambda: not self._session.default_buffer.text))
        def _(event: KeyPressEvent) -> None:
            self.leave()

        return keys


class _BufferedOutput(Vt100_Output):
    """An output that keeps what is written inside a ``with`` block and writes it at once at the end."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        # prompt_toolkit would ask the terminal for the cursor's position, and each write would wait for the answer.
        self.enable_cpr = False
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        self.flush()

    def flush(self) -> None:
        if not self._depth:
            # A terminal that has hung up shows nothing more. SIGHUP, or the end of the input, ends the shell.
            with contextlib.suppress(OSError):
                super().flush()


def is_terminal() -> bool:
    """Whether a user sits at a terminal, with both stdin and stdout."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def moves_its_cursor() -> bool:
    """Whether the terminal can move its cursor."""
    return os.environ.get("TERM") not in ("dumb", "unknown")


def _breaks_rows_anew(environ: Mapping[str, str]) -> bool:
    """Whether the terminal wraps its rows again when it becomes narrower: all but xterm, screen and consoles do."""
    if "TMUX" in environ:
        return True
    return not (
        {"XTERM_VERSION", "STY"} & environ.keys() or environ.get("TERM", "").startswith(("linux", "vt", "rxvt"))
    )


def _is_vt100() -> bool:
    return sys.platform != "win32"


class _Recorded(FileHistory):
    """The lines of all runs, without the answers to the shell's questions."""

    def __init__(self, path: Path, unrecorded: Callable[[], bool]) -> None:
        super().__init__(str(path))
        self._unrecorded = unrecorded

    def append_string(self, string: str) -> None:
        if string.strip() and not self._unrecorded():
            super().append_string(text.entered(string))

    def store_string(self, string: str) -> None:
        # A line that a full disk does not take is known to this run alone.
        with contextlib.suppress(OSError):
            super().store_string(string)


def open_history(path: Path | None, unrecorded: Callable[[], bool]) -> History:
    """The history in a file that only its owner can read; in memory where no file can be written."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, _HISTORY_MODE))
        path.chmod(_HISTORY_MODE)
    except OSError:
        return InMemoryHistory()
    return _Recorded(path, unrecorded)

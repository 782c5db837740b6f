"""Where one types and reads: a terminal, whose input line stays at the bottom while answers scroll above it, or a pipe.

Both give what is typed as a stream of ``Input`` and take rows of text. Only this module prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session, in_terminal
from prompt_toolkit.application.current import set_app
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import ANSI, FormattedText, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.patch_stdout import patch_stdout

from shared.client.shell.paint import Paint, Renderable

_FRAME_S = 1 / 30
_PIPE_COLUMNS = 100
_HINT_COLUMNS = 60
_HISTORY_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Line:
    """One line was entered; it may hold newlines."""

    text: str


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl-C; ``typed``: there was text on the line."""

    typed: bool


@dataclass(frozen=True, slots=True)
class Typing:
    """The line began to hold text, or no longer does."""

    text: str


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has another size."""


Input = Line | Interrupt | Typing | Resized


@dataclass(frozen=True, slots=True)
class Look:
    """What stands below what has scrolled: live rows, the input line's prompt, and a hint while the line is empty."""

    prompt: StyleAndTextTuples = field(default_factory=list)
    live: Sequence[str] = ()
    hint: str = ""


class Screen(ABC):
    """``look`` says how it looks now; it is asked whenever something is drawn, so that nothing stands there twice."""

    interactive: bool
    paint: Paint

    def __init__(self) -> None:
        self.look: Callable[[], Look] = Look

    @abstractmethod
    def inputs(self) -> AsyncIterator[Input]:
        """What the user does, until they leave."""

    @abstractmethod
    def rows(self, rows: Iterable[str]) -> None:
        """Print rows above the input line."""

    @abstractmethod
    def note(self, renderable: Renderable) -> None:
        """Something about the conversation that is not the conversation."""

    @abstractmethod
    def raw(self, text: str) -> None:
        """Text exactly as it came; only where no terminal would act on it."""

    def say(self, renderable: Renderable) -> None:
        """Print anything of rich's."""
        self.rows(self.paint.rows(renderable))

    @abstractmethod
    def refresh(self) -> None:
        """Draw what has changed of the look."""

    @property
    @abstractmethod
    def live_height(self) -> int:
        """How many live rows there is room for."""

    @abstractmethod
    def set_line(self, text: str) -> None:
        """Put text on the input line."""

    @abstractmethod
    def add(self, text: str) -> None:
        """Put text on the input line, where the cursor is."""

    @abstractmethod
    def clear(self) -> None:
        """Clear the screen."""

    @abstractmethod
    def leave(self) -> None:
        """End ``inputs``."""

    @abstractmethod
    def bare(self) -> contextlib.AbstractAsyncContextManager[None]:
        """The terminal without our input line, for one that asks the terminal itself something."""


class Terminal(Screen):
    """The input line is prompt_toolkit's; it is never redrawn from its start and never waits for an answer."""

    interactive = True

    def __init__(
        self, *, plain: bool, completer: Completer, history: Path | None, unrecorded: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._output: Output = (
            _Held.from_pty(sys.stdout, term=os.environ.get("TERM")) if _is_vt100() else create_output()
        )
        self.paint = Paint(lambda: self._output.get_size().columns, plain=plain)
        self._inputs: asyncio.Queue[Input | None] = asyncio.Queue()
        self._shown: StyleAndTextTuples = []
        self._hint = ""
        self._size = self._output.get_size()
        self._leaving = False
        self._session: PromptSession[str] = PromptSession(
            self._message,
            output=self._output,
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
        with create_app_session(output=self._output), patch_stdout():
            self._take_look()
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

    def note(self, renderable: Renderable) -> None:
        self.say(renderable)

    def raw(self, text: str) -> None:
        with self._above():
            self._output.write_raw(text)

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        """Write where the input line stands, and draw it again below; one write to the terminal, so that nothing flickers."""
        held = self._output if isinstance(self._output, _Held) else contextlib.nullcontext()
        running = self._app.is_running and not self._app._running_in_terminal
        with held:
            if running:
                self._app.renderer.erase()
            self._output.enable_autowrap()
            yield
            self._output.flush()
            if running:
                self._take_look()
                self._app.renderer.reset()
                # Drawn at once: invalidate() would leave a frame without the line.
                self._app._redraw()

    def refresh(self) -> None:
        if self._take_look():
            self._app.invalidate()

    def _take_look(self) -> bool:
        look = self.look()
        before, self._hint = self._shown, look.hint
        self._shown = [*to_formatted_text(ANSI("".join(f"{row}\n" for row in look.live))), *look.prompt]
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
        # Whoever asks runs in a context of its own, where this is not the application.
        with create_app_session(output=self._output), set_app(self._app):
            async with in_terminal():
                yield

    def _message(self) -> StyleAndTextTuples:
        return self._shown

    def _accepted(self, buffer: object) -> bool:
        """Enter: the text goes out and the line is empty again; the input line itself goes on."""
        text = self._session.default_buffer.text
        if text.strip():
            self._inputs.put_nowait(Line(text))
        return False

    def _placeholder(self) -> FormattedText:
        """A hint, where it fits on one row."""
        fits = self._output.get_size().columns >= _HINT_COLUMNS
        return FormattedText([("fg:ansibrightblack", self._hint)] if fits else [])

    def _resized(self) -> None:
        """Most terminals break rows anew in a narrower window: go up by so many more before our rows are erased."""
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

        @keys.add("c-d", filter=Condition(lambda: not self._session.default_buffer.text))
        def _(event: KeyPressEvent) -> None:
            self.leave()

        return keys


class _Held(Vt100_Output):
    """Keeps back what is flushed inside a ``with`` and writes it in one go."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        # Asking the terminal where the cursor is would make every write wait for its answer.
        self.enable_cpr = False
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        self.flush()

    def flush(self) -> None:
        if not self._depth:
            super().flush()


class Pipe(Screen):
    """Lines in, plain text out: the replies exactly as they came on stdout, everything else about them on stderr."""

    interactive = False

    def __init__(self) -> None:
        super().__init__()
        self.paint = Paint(lambda: _PIPE_COLUMNS, plain=True, colours=False)
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    async def inputs(self) -> AsyncIterator[Input]:
        loop = asyncio.get_running_loop()
        lines = self._lines

        def read() -> None:
            # The loop may be gone before the pipe is.
            with contextlib.suppress(RuntimeError, ValueError):
                for line in sys.stdin:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                loop.call_soon_threadsafe(lines.put_nowait, "")

        # A thread that reads a pipe cannot be stopped: a daemon does not keep us from leaving.
        threading.Thread(target=read, name="stdin", daemon=True).start()
        while line := await lines.get():
            if line.strip():
                yield Line(line.rstrip("\r\n"))

    def rows(self, rows: Iterable[str]) -> None:
        self.raw("".join(f"{row}\n" for row in rows))

    def note(self, renderable: Renderable) -> None:
        sys.stderr.write("".join(f"{row}\n" for row in self.paint.rows(renderable)))
        sys.stderr.flush()

    def raw(self, text: str) -> None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()

    # The rest needs a screen.

    def refresh(self) -> None:
        return

    @property
    def live_height(self) -> int:
        return 0

    def set_line(self, text: str) -> None:
        return

    def add(self, text: str) -> None:
        return

    def clear(self) -> None:
        return

    def leave(self) -> None:
        self._lines.put_nowait("")

    def bare(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()


def is_terminal() -> bool:
    """Whether someone sits in front of it: both ends are a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _breaks_rows_anew(environ: Mapping[str, str]) -> bool:
    """Whether the terminal wraps what stands on it again when it becomes narrower: all but xterm, screen and consoles do."""
    if "TMUX" in environ:
        return True
    return not (
        {"XTERM_VERSION", "STY"} & environ.keys() or environ.get("TERM", "").startswith(("linux", "vt", "rxvt"))
    )


def _is_vt100() -> bool:
    return sys.platform != "win32"


class _Recorded(FileHistory):
    """The lines of all runs; answers to our own questions are none."""

    def __init__(self, path: Path, unrecorded: Callable[[], bool]) -> None:
        super().__init__(str(path))
        self._unrecorded = unrecorded

    def append_string(self, string: str) -> None:
        if string.strip() and not self._unrecorded():
            super().append_string(string)


def open_history(path: Path | None, unrecorded: Callable[[], bool]) -> History:
    """The history in a file that only its owner can read; in memory where there can be none."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, _HISTORY_MODE))
        path.chmod(_HISTORY_MODE)
    except OSError:
        return InMemoryHistory()
    return _Recorded(path, unrecorded)

"""Loopback emulators of the providers' HTTP wires, for tests without a network: the real SDKs are pointed at them.

``Emulator`` serves Gemini (``/v1/models/{model}:streamGenerateContent``), OpenAI chat (``/v1/chat/completions``) and OpenAI
images (``/v1/images/generations``) on one port. What it does is chosen by ``emulate:NAME`` or ``emulate:NAME-N`` in the last
message or the prompt (the tables in ``chat.py`` and ``images.py`` list the names), by the model (unknown ones are 404) and by
the key (``wrong-key`` is refused). It keeps every request and when the client closed it: ``Emulator.seen``, ``GET /_requests``.

In a test: ``async with Emulator() as emulator``. As a process: ``python -m tests.emulators --port 0``, which prints one line of
JSON when it is ready: ``{"ready": "http://127.0.0.1:PORT", "gemini": …, "openai": …}``.
"""

from tests.emulators.server import PROVIDER_TEXT, WRONG_KEY, Emulator, Seen

__all__ = ["PROVIDER_TEXT", "WRONG_KEY", "Emulator", "Seen"]

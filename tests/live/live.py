"""``make test-live``: a short conversation and a picture over all five transports, with the real Gemini and OpenAI.

``python -m pytest tests/live/live.py``. It costs money. So its name keeps it out of ``make test``, it prints the
requests before it sends them, and without keys it is skipped with one line. It reads the settings that the servers
read: GEMINI_API_KEY for the conversation, OPENAI_API_KEY for the pictures, GENAI_MODEL_ID and OPENAI_IMAGE_MODEL for
another model.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols import TRANSPORTS
from protocols.processes import serving_all
from shared.client.protocol import collect, collect_picture
from shared.config import Settings
from shared.images.open import open_image_model
from shared.llm.open import open_chat_model

SIZE = "1024x1024"
TURNS = (
    "My name is Ada. Answer with one short sentence.",
    "What is my name? Answer with the name only.",
    "Count from 1 to 20, separated by commas.",
)
# The tokens of the questions and of short answers, without thoughts.
INPUT_TOKENS, OUTPUT_TOKENS = 150, 120


async def test_all_five_against_the_real_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings()
    chat, images = open_chat_model(settings), open_image_model(settings)
    talks, draws = chat.provider != "offline", images.provider != "offline"
    if not (talks or draws):
        pytest.skip("no GEMINI_API_KEY and no OPENAI_API_KEY: nothing real to test against")
    five = len(TRANSPORTS)
    cost = []
    if talks:
        cost.append(
            f"{five * len(TURNS)} chat requests to {chat.provider} {chat.default_model}, about {five * INPUT_TOKENS} tokens in "
            f"and {five * OUTPUT_TOKENS} out (and what the model thinks)"
        )
    if draws:
        cost.append(f"{five} pictures {SIZE} from {images.provider} {images.default_model}")
    with capsys.disabled():
        print(f"\nThis asks, at your provider's prices, for: {'; '.join(cost)}.")
    async with serving_all(env={"STORE_URL": f"sqlite:///{tmp_path / 'chat.db'}"}) as servers:
        for word, server in servers.items():
            async with server.client(silence_s=300) as client:
                session_id = None
                for question in TURNS if talks else ():
                    reply = await collect(client.chat(question, session_id=session_id))
                    session_id = reply.session_id
                    assert reply.finish_reason == "stop"
                    assert reply.usage.output_tokens
                    with capsys.disabled():
                        print(f"  {word}: {reply.elapsed_ms:.0f} ms  {reply.text.strip()[:80]}")
                    if question == TURNS[1]:
                        assert "Ada" in reply.text
                if draws:
                    picture = await collect_picture(client.image("a red fox in the snow, flat colours", size=SIZE))
                    assert f"{picture.width}x{picture.height}" == SIZE
                    with capsys.disabled():
                        print(f"  {word}: a picture of {len(picture.image)} bytes")

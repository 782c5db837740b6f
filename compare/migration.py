"""``python -m compare migration``: the article's claims about REST and gRPC, measured on its own subject, pictures.

The first table has four ways to get the same picture: medians with the middle half of the values. The second table says who notices
the mistakes of a client, and when.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import grpc

from compare.measuring.picture_transfers import (
    PROMPT,
    Transfer,
    grpc_channel,
    image_servers,
    measure_transfers,
    rest_client,
)
from compare.measuring.statistics import quantile
from protocols.grpc import chat_pb2
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from shared.usage import usage_of

# Mistakes of a client, as the fields of its request: JSON on REST, a message on gRPC.
_MISTAKES: dict[str, dict[str, object]] = {
    "`promt` for `prompt`": {"promt": PROMPT},
    "`sise` for `size`": {"prompt": PROMPT, "sise": "64x64"},
    "a number for the prompt": {"prompt": 5},
    "a number for the size": {"prompt": PROMPT, "size": 64},
    "no prompt at all": {},
    "an empty prompt": {"prompt": ""},
    "an invalid size": {"prompt": PROMPT, "size": "large"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m compare migration", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("--size", default="1024x1024", metavar="WxH", help="size of the picture (default: 1024x1024)")
    parser.add_argument("--rounds", type=_rounds, default=15, help="after a warm-up, at least 4 (default: 15)")
    args = parser.parse_args(argv)
    print(transfers_table(asyncio.run(measure_transfers(args.size, args.rounds)), args.size, args.rounds))
    print(asyncio.run(mistakes_table()), end="")
    return 0


def _rounds(given: str) -> int:
    """A middle half has no meaning with fewer than four values."""
    rounds = int(given)
    if rounds < 4:
        raise argparse.ArgumentTypeError("at least 4 rounds are needed")
    return rounds


def transfers_table(found: Sequence[Transfer], size: str, rounds: int) -> str:
    """The four ways to get a picture, as Markdown."""
    lines = [
        f"| {size}, {rounds} rounds | drawn and here, ms | fetched again, ms | bytes up | bytes down | of the picture |",
        "|---|---|---|---|---|---|",
    ]
    for transfer in found:
        share = f"{transfer.down / transfer.picture:.2f} ×"
        times = (_middle(transfer.draw_ms), _middle(transfer.fetch_ms))
        cells = (*times, f"{transfer.up:,}", f"{transfer.down:,}", share)
        lines.append(f"| {transfer.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _middle(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, middle, high = (quantile(values, share) or 0.0 for share in (0.25, 0.5, 0.75))
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


async def mistakes_table() -> str:
    """A Markdown table: which side notices each mistake of a client."""
    lines = ["| a client sends | REST | gRPC |", "|---|---|---|"]
    async with image_servers() as servers:
        for mistake, fields in _MISTAKES.items():
            over_rest = await _rest_notices(servers["rest"].address, fields)
            over_grpc = await _grpc_notices(servers["grpc"].address, fields)
            lines.append(f"| {mistake} | {over_rest} | {over_grpc} |")
    return "\n".join(lines) + "\n"


async def _rest_notices(address: str, fields: dict[str, object]) -> str:
    async with rest_client(address) as http:
        answer = await http.post("/images", json=fields)
    if answer.is_success:
        picture = answer.json()
        return f"nobody: a picture of {picture['width']}x{picture['height']}"
    return f"the server: {answer.status_code}"


async def _grpc_notices(address: str, fields: dict[str, object]) -> str:
    try:
        request = chat_pb2.GenerateImageRequest(**fields)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        return f"the client's own code: {type(error).__name__}, nothing is sent"
    async with grpc_channel(address) as channel:
        try:
            async for _ in ChatServiceStub(channel).GenerateImage(request):
                pass
        except grpc.aio.AioRpcError as error:
            return f"the server: {error.code().name}"
    return "nobody: a picture"

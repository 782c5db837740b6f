"""``python -m protocols``: the same entry for every transport; the work is done in the leaves and in ``shared``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from protocols import TRANSPORTS
from shared.transports import word_named

# The commands that take a transport's word. The command itself parses the arguments after the word.
_OF_ONE = {
    "serve": "start a server, or all five side by side",
    "chat": "the interactive client of a transport, or one MESSAGE",
    "image": "have a picture of PROMPT drawn into a file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m protocols",
        description="One GenAI chat and one image endpoint over five transports, side by side.",
        epilog="Each has options of its own: python -m protocols serve sse --help. To compare the five: python -m compare --help",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in _OF_ONE.items():
        words = (*TRANSPORTS, "all") if name == "serve" else tuple(TRANSPORTS)
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("word", metavar="WORD", type=_word, choices=words, help=", ".join(words))
    commands.add_parser("demo", help="a conversation and a picture over all five, live, then compared")
    commands.add_parser("list", help="the five transports")
    commands.add_parser("certs", help="a CA and a certificate of your own, for https:// and wss:// on this machine")
    commands.add_parser("store", help="check the store's file, or export what can be read of a damaged one")
    args = parser.parse_args(given[: 2 if given[0:1] and given[0] in _OF_ONE else 1])
    if args.command == "list":
        return _list()
    if args.command == "demo":
        from protocols import demo

        return demo.main(given[1:])
    if args.command == "certs":
        from protocols import certs

        return certs.main(given[1:])
    if args.command == "store":
        from protocols import store

        return store.main(given[1:])
    rest = given[2:]
    if args.word == "all":
        return _serve_all(rest)
    transport = TRANSPORTS[args.word]
    if args.command == "serve":
        return transport.server_main()(rest)
    if args.command == "chat":
        return transport.client_main()(rest)
    from shared.client import cli

    return cli.image_main(transport.client_class(), rest, TRANSPORTS)


def _word(given: str) -> str:
    """The word of the transport that is meant, such as websocket for ``ws``."""
    return given if given == "all" else word_named(given, TRANSPORTS) or given


def _serve_all(argv: Sequence[str]) -> int:
    from protocols.together import serve_all

    parser = argparse.ArgumentParser(
        prog="python -m protocols serve all", description="The five servers side by side on one store."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port-base", type=int, help="five ports from this one on (default: the settings' ports)")
    parser.add_argument("--http2", action="store_true", help="HTTP/2 too, where a server can (docs/http2.md)")
    parser.add_argument("--trace", action="store_true", help="log every event")
    parser.add_argument("--trace-text", action="store_true", help="log prompts and answers too")
    args = parser.parse_args(argv)
    given = (("--http2", args.http2), ("--trace", args.trace), ("--trace-text", args.trace_text))
    traces = [option for option, on in given if on]
    return serve_all(args.host, args.port_base, traces)


def _list() -> int:
    print(f"{'word':<11}{'folder':<27}{'address':<17}{'streams':<9}one connection")
    for transport in TRANSPORTS.values():
        tokens, holds = ("yes" if can else "no" for can in (transport.tokens, transport.holds))
        print(f"{transport.word:<11}protocols/{transport.folder:<17}{transport.address:<17}{tokens:<9}{holds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

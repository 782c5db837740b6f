"""Line readers with a limit of 64 KiB, as Python's and Go's standard libraries have it, and Go's own HTTP client."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.conftest import Servers
from tests.parts import part

# Posts three bodies and reads each answer with bufio.Scanner, whose lines have at most 64 KiB.
GO = """
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	for i := 2; i+1 < len(os.Args); i += 2 {
		answer, err := http.Post(os.Args[1]+os.Args[i], "application/json", strings.NewReader(os.Args[i+1]))
		if err != nil {
			fmt.Println(err)
			continue
		}
		scanner, last := bufio.NewScanner(answer.Body), ""
		for scanner.Scan() {
			if scanner.Text() != "" {
				last = scanner.Text()
			}
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode, scanner.Err(), strings.Contains(last, "turn_completed"))
	}
}
"""
# A reply with texts of many pieces, a picture with previews, and a prompt that makes the first line almost 64 KiB.
ASKED: list[tuple[str, dict[str, str]]] = [
    ("/chat/stream", {"message": "/tokens 200 Hello"}),
    ("/images/stream", {"prompt": "A red bridge", "size": "1024x1024"}),
    ("/chat/stream", {"message": "/tokens 1 " + "x" * 64_000}),
]
TOO_LONG = ("/chat/stream", {"message": "/tokens 1 " + "x" * 70_000})


@pytest.mark.parametrize("word", ["ndjson", "sse"])
async def test_pythons_reader_of_lines(word: str, servers: Servers) -> None:
    """``asyncio.StreamReader.readline`` with its default limit; a prompt above 64 KiB makes the first line longer than that."""
    host, _, port = servers[word].address.partition(":")
    for path, body in (*ASKED, TOO_LONG):
        reader, writer = await asyncio.open_connection(host, int(port))
        data = json.dumps(body).encode()
        # An answer to HTTP/1.0 has no chunks, so that the lines are those of the body.
        head = (
            f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + data)
        lines = []
        try:
            while line := await reader.readline():
                lines.append(line)
        except ValueError:
            assert len(body.get("message", "")) > 64 * 1024
        else:
            assert any(b"turn_completed" in line for line in lines[-3:]), (path, lines[-3:])
            assert max(map(len, lines)) > 60_000 or "/tokens 200" in body.get("message", "")
        writer.close()


async def test_gos_client_and_its_scanner(servers: Servers, tmp_path: Path) -> None:
    source = tmp_path / "read.go"
    source.write_text(GO)
    given = [text for path, body in ASKED for text in (path, json.dumps(body))]
    env = os.environ | {"GO111MODULE": "off", "GOFLAGS": ""}
    built = await asyncio.create_subprocess_exec(
        *(part("go").path, "build", "-o", "read", source.name), cwd=tmp_path, env=env
    )
    assert await built.wait() == 0
    for word in ("ndjson", "sse"):
        process = await asyncio.create_subprocess_exec(
            tmp_path / "read", f"http://{servers[word].address}", *given, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert said.decode().splitlines() == ["200 <nil> true"] * len(ASKED), (word, said)

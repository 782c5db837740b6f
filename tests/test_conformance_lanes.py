"""A sample of tests/test_conformance.py over HTTP/2, gRPC-Web and gRPC without grpcio on the server.

``LANES=all pytest tests/test_conformance.py`` plays the whole suite over these lanes and the five transports.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import MakeServers, Servers
from tests.lanes import FURTHER
from tests.parts import part
from tests.test_conformance import (  # noqa: F401 - the same tests, collected here too
    test_a_picture_outside_any_session,
    test_a_running_answer_is_read_through_the_other_processes,
    test_a_started_turn_is_read_like_any_other,
    test_the_end_of_a_log,
)


@pytest.fixture(params=FURTHER)
def word(request: pytest.FixtureRequest) -> str:
    """The name of each further lane in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def servers(make_servers: MakeServers) -> Iterator[Servers]:
    """The five with HTTP/2. At the end none of them may have logged an error."""
    part("zttp")
    five = make_servers(HTTP2="on")
    yield five
    assert not five.errors()

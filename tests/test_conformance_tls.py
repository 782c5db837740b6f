"""A sample of tests/test_conformance.py over TLS on all five; ``TLS=1 pytest tests/test_conformance.py`` runs all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.certificates import tls_settings
from tests.conftest import MakeServers, Servers
from tests.test_conformance import (  # noqa: F401 - the same tests, collected here too
    test_a_picture_outside_any_session,
    test_a_running_answer_is_read_through_the_other_processes,
    test_the_end_of_a_log,
)


@pytest.fixture(scope="module")
def servers(make_servers: MakeServers) -> Iterator[Servers]:
    """The five over TLS. At the end none of them may have logged an error."""
    five = make_servers(**tls_settings())
    yield five
    assert not five.errors()

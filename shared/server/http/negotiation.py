"""Which media type a client prefers (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

_RANGE = re.compile(r"\s*([!#$%&'*+.^_`|~0-9a-z-]+)/([!#$%&'*+.^_`|~0-9a-z-]+)\s*(;.*)?")
# The value of a parameter that may have commas and semicolons in it (RFC 9110, section 5.6.4).
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_WEIGHT = re.compile(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)")


def prefers(headers: Headers, media_type: str, default: str) -> bool:
    """Whether a request prefers ``media_type`` to ``default``: by the weights in its ``Accept``, several lines read as one."""
    accept = _QUOTED.sub('""', ",".join(headers.getlist("accept")).lower())
    return _weight(accept, media_type) > _weight(accept, default)


def _weight(accept: str, media_type: str) -> float:
    """The weight of the most specific range that covers a media type; 0 where none does."""
    kind, _, subtype = media_type.partition("/")
    weights: dict[tuple[str, str], float] = {}
    for part in accept.split(","):
        match = _RANGE.fullmatch(part)
        if match is not None:
            parameters = match[3] or ""
            weight = _WEIGHT.search(parameters)
            # A weight that is no number from 0 to 1 is no weight.
            weights[match[1], match[2]] = float(weight[1]) if weight else 1.0
    for range_ in ((kind, subtype), (kind, "*"), ("*", "*")):
        if range_ in weights:
            return weights[range_]
    return 0.0

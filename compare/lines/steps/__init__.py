"""Captured bytes as protocol steps, read by foreign parsers (h11, wsproto, hyperframe, hpack); see ``compare.lines.steps.read``."""

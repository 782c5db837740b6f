"""Captured bytes cut into spans, each with its meaning, so that every byte is explained; see ``compare.lines.spans.read``."""

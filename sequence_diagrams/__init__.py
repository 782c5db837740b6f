"""Sequence diagrams of the five transports, drawn from recorded runs: ``python -m sequence_diagrams``."""

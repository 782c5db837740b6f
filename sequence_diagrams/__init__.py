"""Sequence diagrams of the five transports, drawn from recorded runs, and the parts of the READMEs that are generated."""

"""Experiments on a line that loses packets: many connections or one, and an address that changes in mid-answer."""

"""The load generator, ``python -m compare.measuring.floors.load``: raw sockets, so that it costs less than the servers it loads."""

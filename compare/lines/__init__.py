"""The lines between clients and servers: the relay with its faults, proxies, and the readers of captured bytes."""

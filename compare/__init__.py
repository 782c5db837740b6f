"""The tools that compare the five transports and break them. They use the clients and servers of ``protocols``."""

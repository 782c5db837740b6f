"""Where sessions, turns and their logs live: one protocol, one file an engine, ``open`` chooses."""

"""Where sessions, turns and their logs live: one protocol, a module or folder for each engine, ``open`` chooses."""

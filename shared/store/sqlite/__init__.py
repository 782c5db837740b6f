"""SQLite as the store: one file in WAL mode, shared by any number of server processes on one machine."""

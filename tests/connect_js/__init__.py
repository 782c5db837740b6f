"""The official Connect client for pages as one file: ``python -m tests.connect_js`` makes it, ``--check`` compares."""

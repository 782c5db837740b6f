"""The pages in real Chromium (``make test-browser``)."""

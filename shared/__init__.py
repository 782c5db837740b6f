"""The one chat behind the five transports; nothing in here knows a wire (``http.py`` is the one exception)."""

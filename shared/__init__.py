"""The one chat behind the five transports.

Only servers load ``chat/``, ``server/``, ``store/``, ``llm/`` and ``images/``. Only clients load ``client/``. Both may load the
modules in this folder. ``web/`` holds the pages that a browser loads from a server.

The ports, schemes and words of the transports stand in ``protocols/__init__.py``, which hands them in. Only ``server/http/`` and
``client/http.py`` know a web library; each module of a provider's SDK also knows the web library of that SDK.
"""

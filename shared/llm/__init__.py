"""The language models behind the chat: one protocol (``model``), one file a provider, ``open`` chooses."""

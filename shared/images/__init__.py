"""The image models behind the image endpoint: one protocol (``model``), one file a provider, ``open`` chooses."""

"""The chat itself: turns are generated here, committed to the store, and read from any cursor. Only servers load it."""

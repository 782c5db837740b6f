"""How cost grows: against streams, readers of one turn, the history of a session, the size of the store, and processes."""

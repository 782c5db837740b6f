"""The factors of a wire: encoding, HTTP version, framing and server library, each measured with the others held equal."""

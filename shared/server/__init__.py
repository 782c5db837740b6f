"""What the five servers share: starting, stopping, access, the held connection, and HTTP. No client loads it."""

"""The probe: what the path between a client and a server does to a stream, found from the client's side alone."""

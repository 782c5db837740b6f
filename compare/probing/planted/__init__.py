"""The self-test of the probe: faults planted in five proxies and our own relay, and paths without a fault."""

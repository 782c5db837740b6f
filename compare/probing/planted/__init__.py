"""The self-test of the probe: faults planted in five proxies and in the relay of this project, and paths without a
fault.
"""

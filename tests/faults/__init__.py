"""The faults: lines, processes and peers fail on every transport, with real clients and real servers.

``python -m tests.faults`` runs everything and prints its totals and seeds; ``tests/test_faults_sample.py`` runs a sample.
"""

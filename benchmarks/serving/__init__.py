"""Throughput of our platform beside its peers, in one run on one machine."""

"""The graph executor: a step's batch is padded to a bucket and run as a compiled program."""

"""The tools that compare the five transports and break them. They use the same clients and servers as everything else."""

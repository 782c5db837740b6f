"""The tools that compare the five transports and break them; they drive the very same clients and servers as everything else."""

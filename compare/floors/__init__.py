"""The smallest servers that can do each transport's job, and the load generator that drives them and ours alike."""

"""Each transport's floor, the smallest server that can do its job, and the load that drives a floor and the real server alike."""

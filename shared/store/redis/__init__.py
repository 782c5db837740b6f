"""Redis or Valkey as the store: any number of nodes on any number of machines, behind any balancer."""

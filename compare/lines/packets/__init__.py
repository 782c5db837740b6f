"""A line whose packets are really lost: two network namespaces, and a process that carries packets between them."""

"""The floors: raw ASGI apps and a bare gRPC server that send a prepared turn and do nothing else."""

"""The level of grpcio's own log: errors alone. This module is imported before grpcio, which reads the level at its import.

At its default level grpcio prints a line to stderr for each TLS handshake that fails, beside the message of this project.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

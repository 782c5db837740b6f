"""Python imports a module of this name when it starts; a server that is started with this folder on PYTHONPATH gets a bug."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.plants import PLANTS

PLANTS[os.environ["PLANTED_BUG"]].plant()

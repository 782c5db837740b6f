"""Plants a bug: Python imports a module of this name at its start when this folder is on PYTHONPATH."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.plants import PLANTS

PLANTS[os.environ["PLANTED_BUG"]].plant()

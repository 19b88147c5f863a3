"""``pages.py``, which reads the pages, is beside the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

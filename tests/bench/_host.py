"""The real host and the pack (as `reedit`), set up for a benchmark as the tests set them up. Import it first."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
WEIGHTS = TESTS / "tiny_sd" / "weights"
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import conftest  # noqa: F401  puts the host on the path and imports the pack and the demo family

"""Where the recipes are, and the Python of Spark's workers."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scaling"))
os.environ["PYSPARK_PYTHON"] = sys.executable

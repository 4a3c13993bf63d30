"""Scripts that tests start import the package of this checkout, whatever is installed."""

import os
from pathlib import Path

ROOT = str(Path(__file__).parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

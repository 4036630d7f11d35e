"""``python -m benchmarks NAME ...``: the scripts of this folder by their names."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run one; without a name, tell which there are."""
    scripts = {
        path.stem: path for path in HERE.glob("*.py") if "def main(" in path.read_text("utf-8")
    }
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in scripts:
        raise SystemExit(f"usage: python -m benchmarks NAME ...\nnames: {', '.join(scripts)}")
    sys.path.insert(0, str(HERE))
    sys.argv[:] = [str(scripts[name]), *sys.argv[2:]]
    runpy.run_path(str(scripts[name]), run_name="__main__")


main()

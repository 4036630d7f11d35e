"""The documented door: ``python3 main.py --mode train|eval --expt EXPERIMENT.json``."""

import sys

try:
    from vit_lightning.cli import main_by_mode
except ModuleNotFoundError as error:
    sys.exit(
        f"vit-lightning is not ready in {sys.executable} ({error.name} is missing): run "
        "`make setup` and use .venv/bin/python3, or `pip install -c constraints.txt -e .` here"
    )

if __name__ == "__main__":
    sys.exit(main_by_mode())

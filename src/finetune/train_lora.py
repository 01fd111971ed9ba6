"""Fine-tune with LoRA: `pangzhu train` under the course's name, with the same options (`--help` lists them)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pangzhu.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

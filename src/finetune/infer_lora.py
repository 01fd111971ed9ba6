"""Ask a fine-tuned model: `pangzhu chat` under the course's name; without `--prompt` it is a session."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pangzhu.cli import main

if __name__ == "__main__":
    sys.exit(main(["chat", *sys.argv[1:]]))

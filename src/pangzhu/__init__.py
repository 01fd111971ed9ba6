"""Pangzhu (旁注): LoRA instruction fine-tuning for small language models on the computer you already have.

LoRA leaves the textbook as it is and writes notes in its margin. This package trains such notes (adapters), proves
what they changed, and writes them in peft's own format. Start reading at `pangzhu.train`; the map of all files is in
README.md.
"""

__version__ = "0.1.0"

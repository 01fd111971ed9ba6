"""What leaves Pangzhu: a plain model folder, GGUF files, a Modelfile, each held against its adapter before it is published.

The way of an export: `subject` finds base and adapter; `merge`, `gguf` and `ollama` write into a folder aside (`staging`);
`parity` asks the adapter and what was written the same questions and compares; only then are the files moved into place.
"""

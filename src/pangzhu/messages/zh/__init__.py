"""The Chinese sentences, one file an area."""

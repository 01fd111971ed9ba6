"""The English sentences, one file an area."""

"""What the scripts beside it make stands between two marks of a page, one page a language."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pangzhu.messages import Language


@dataclass(frozen=True)
class Generated:
    """A part of two pages that a script makes.

    Args:
        mark: its name in `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
        pages: the page of each language.
        content: what stands between the marks, in a language.
    """

    mark: str
    pages: Mapping[Language, Path]
    content: Callable[[Language], str]

    def renewed(self, language: Language) -> str:
        """The page's text as it should be.

        Raises:
            ValueError: the page lacks a mark.
        """
        begin, end = f"<!-- {self.mark}:begin -->", f"<!-- {self.mark}:end -->"
        head, _, rest = self.pages[language].read_text(encoding="utf-8").partition(begin)
        _, end_mark, tail = rest.partition(end)
        if not end_mark:
            raise ValueError(f"{begin} or {end} is missing")
        return f"{head}{begin}\n{self.content(language)}\n{end}{tail}"

    def write(self) -> None:
        """Renew every page."""
        for language, page in self.pages.items():
            page.write_text(self.renewed(language), encoding="utf-8")

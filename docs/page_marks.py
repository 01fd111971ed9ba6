"""What the scripts beside it put into pages stands between two marks."""


def put_between(page: str, content: str, begin: str, end: str) -> str:
    """A page's text with `content` between its marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    head, _, rest = page.partition(begin)
    _, end_mark, tail = rest.partition(end)
    if not end_mark:
        raise ValueError(f"{begin} or {end} is missing")
    return f"{head}{begin}\n{content}\n{end}{tail}"

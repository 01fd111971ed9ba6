"""The process a template is tried out in: a program of its own that needs nothing of Pangzhu.

`python child.py LIMIT` reads a template from standard input, renders it, and writes `done`, or `large` where one text has
more than LIMIT letters. A template that fails is done too: what it complains of is told when it is used. The environment
is that of transformers (`transformers.utils.chat_template_utils`): sandboxed, with the same extensions and names.
"""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = (("user",), ("system", "user"), ("user", "assistant"), ("system", *("user", "assistant") * 3, "user"))
VARIABLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "tools": None,
    "documents": None,
}


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks an answer and prints it."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's content as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def is_bounded(source: str, limit: int) -> bool:
    """Whether a template keeps to `limit` letters, whatever the shape of the conversation."""
    try:
        template = environment().from_string(source)
        return all(
            _is_short(template.generate(messages=chat, add_generation_prompt=goes_on, **VARIABLES), limit)
            for chat in _chats()
            for goes_on in (True, False)
        )
    except MemoryError:
        return False
    except Exception:  # noqa: BLE001  # its fault is told when it is used
        return True


def environment() -> ImmutableSandboxedEnvironment:
    """A sandbox as transformers makes it."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    made.globals["raise_exception"] = _complain
    made.globals["strftime_now"] = lambda layout: datetime(2024, 7, 26).strftime(layout)
    return made


def main() -> None:
    """Read, render, tell."""
    source = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    sys.stdout.write("done" if is_bounded(source, int(sys.argv[1])) else "large")


def _chats() -> list[list[dict[str, str]]]:
    return [[{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)] for roles in ROLES]


def _is_short(pieces: Iterator[str], limit: int) -> bool:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            return False
    return True


def _complain(message: str) -> NoReturn:
    raise TemplateError(message)


if __name__ == "__main__":
    main()

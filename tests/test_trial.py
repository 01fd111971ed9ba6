"""A template that loops, explodes or reaches for what is not its own is found before it is used; a chat template is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu import trial
from pangzhu.errors import ModelError
from pangzhu.template import CHATML, PromptContract, contract_for
from pangzhu.trial import child, try_out
from tests.conftest import TEMPLATE, build_tokenizer

BOMBS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a number without end": "{{ (10 ** (10 ** 9)) % 7 }}",
    "a number computed in vain": "{% set x = 9 ** (9 ** 9) %}",
    "a text times a billion": "{{ 'a' * 10 ** 9 }}",
    "a text doubled": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list times a billion": "{% set x = [0] * 10 ** 9 %}",
    "a padded number": "{{ '%0999999999d' | format(1) }}",
    "a centred text": "{{ 'a' | center(999999999) }}",
    "two megabytes": "{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}",
    "only with a system text": "{% if messages[0].role == 'system' %}{{ 'a' * 10 ** 9 }}{% endif %}",
    "only after answers": "{% if messages | length > 3 %}{% for m in range(2000) %}{{ 'x' * 1000 }}{% endfor %}{% endif %}",
}
REACHING = (
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ lipsum.__globals__['os'].popen('true').read() }}",
    "{{ self._TemplateReference__context.x }}",
    "{{ raise_exception.__globals__.x }}",
    "{% set x = namespace(__class__='y') %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
)
STUMBLING = (
    "{{ 1 / 0 }}",
    "{{ [][7].x }}",
    "{{ {}['x'].y }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{{ 10.0 ** 999 }}",
    "{{ 'é'.encode('ascii') }}",
)


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds, smaller, so that a test does not wait for them."""
    monkeypatch.setattr(trial, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(trial, "MOST_MEMORY", 128 * 2**20)


@pytest.mark.fault("B8")
@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_loops_or_explodes_is_refused(name: str, little_patience: None) -> None:
    with pytest.raises(ModelError) as refused:
        try_out(BOMBS[name] + TEMPLATE)
    assert refused.value.key == "error.template.unbounded"
    assert refused.value.fix


@pytest.mark.fault("B8")
def test_a_base_and_an_adapter_are_refused_before_their_template_is_used(little_patience: None, tmp_path: Path) -> None:
    bomb = BOMBS["two megabytes"] + TEMPLATE
    tokenizer = build_tokenizer()
    tokenizer.chat_template = bomb
    contract = PromptContract(bomb, None, 2, (2,))
    (tmp_path / "prompt.json").write_text(contract.to_json(), encoding="utf-8")
    using: list[Callable[[], object]] = [
        lambda: contract_for(tokenizer),
        lambda: PromptContract.read(tmp_path / "prompt.json"),
    ]
    for use in using:
        with pytest.raises(ModelError) as refused:
            use()
        assert refused.value.key == "error.template.unbounded"


@pytest.mark.fault("B8")
@pytest.mark.parametrize("template", [*REACHING, *STUMBLING])
def test_a_template_that_reaches_for_attributes_or_stumbles_is_refused_without_a_traceback(template: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template + TEMPLATE
    with pytest.raises(ModelError) as refused:
        contract_for(tokenizer)
    assert refused.value.key in ("error.template.refused", "error.template.no_end")
    assert refused.value.fix


@pytest.mark.fault("B8")
def test_a_template_of_more_than_a_megabyte_is_refused_unread() -> None:
    with pytest.raises(ModelError) as refused:
        try_out("{# " + "x" * trial.MOST_LETTERS + " #}")
    assert refused.value.key == "error.template.unbounded"


@pytest.mark.parametrize(
    "template",
    [TEMPLATE, CHATML, "{% generation %}{{ messages[-1].content }}{% endgeneration %}", "中文模板 {{ eos_token }}", ""],
)
def test_a_chat_template_keeps_the_bounds(template: str) -> None:
    try_out(template)


def test_a_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{# tried once #}" + TEMPLATE
    try_out(template)
    monkeypatch.setattr(trial.subprocess, "Popen", lambda *words, **more: pytest.fail("tried again"))
    try_out(template)


def test_where_no_process_can_be_started_the_template_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "CHILD", Path(__file__).with_name("no_such_program.py"))
    with pytest.raises(ModelError) as refused:
        try_out("{# nobody looks #}" + TEMPLATE)
    assert refused.value.key == "error.template.not_tried"


def test_the_child_renders_what_transformers_renders() -> None:
    """Its environment may not fall behind: a name it lacks would end the trial before the bomb."""
    tokenizer = build_tokenizer()
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    pieces = (
        "{{ messages | tojson }}{{ strftime_now('%Y') | length }}{% generation %}x{% endgeneration %}"
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}"
        "{% set n = namespace(x=1) %}{{ n.x }}{{ dict(a=1).a }}"
    )
    theirs = tokenizer.apply_chat_template(chat, chat_template=pieces, tokenize=False)
    assert child.environment().from_string(pieces).render(messages=chat) == theirs

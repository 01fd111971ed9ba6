"""Texts and questions of the conversion proof: the same on every run, made of what breaks tokenizers."""

import random

NUM_TEXTS = 200

PIECES = (
    "中华人民共和国民法典自2021年1月1日起施行。",
    "合同法第十二条规定了什么？",
    "請用繁體字回答這個問題。",
    "自然人从出生时起到死亡时止，具有民事权利能力，依法享有民事权利。",
    "利率为3.85%，共1234567.89元",
    "２０２４年　全角：ＡＢＣａｂｃ，！？（）",
    "The quick brown fox jumps over 13 lazy dogs.",
    "don't you'll I'M we've HE'D it's",
    "naïve café Übermaß façade Łódź",
    "Привет, мир! שלום العربية हिन्दी",
    "日本語のテキスト、カタカナとひらがな。",
    "한국어 문장 하나.",
    "🙂👍🏽👩‍👩‍👧‍👦🇨🇳✨",
    "def f(x: int) -> int:\n    return x ** 2  # 平方\n",
    'for(int i=0;i<10;++i){printf("%d\\n",i);}',
    "SELECT * FROM t WHERE id=42 AND name='张三';",
    '{"键": [1, 2.5, null], "b": "\\u4e2d"}',
    "https://example.com/a?b=1&c=%E4%B8%AD#d",
    "  two spaces",
    "\t\ttabs\tinside ",
    "\n\n\nblank lines\n \n",
    "\r\nWindows line\r\n",
    "trailing spaces   ",
    "     ",
    "0",
    "007 1,000,000 3.14159 1e-5 0x7F",
    "——……《》「」『』【】、；：",
    "α+β=γ, ∑∫√≤≠∞",
    "x²+y³ ½ ⅷ ①②③ 一二三",
    "a\u00a0b\u3000c\u2003d\u200be",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "#标题\n- 条目 **粗体** `代码`",
    "<|im_start|>user\n你好<|im_end|>\n",
    "<|endoftext|>",
    "<b>tag</b> <|not_a_token|> <tool>",
    "𠮷野家 龘靐齉 㐀䶵",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈",
    "!!!???...;;;",
    "ALLCAPS lowercase MiXeD",
)

QUESTIONS = (
    "你好，请介绍一下你自己。",
    "What is the capital of France?",
    "用 Python 写一个函数，计算斐波那契数列。",
    "1+1 等于几？",
    "Translate to English: 我喜欢学习大语言模型。",
    "什么是合同？",
    "List three colors.",
    "请用 3 条要点总结：为什么要学习大语言模型工程？",
    "Write a haiku about rain.",
    "自然人的民事权利能力一律平等吗？",
)


def proof_texts() -> list[str]:
    """The pieces, and then pairs, triples and slices of them in a fixed random order: 200 different texts."""
    chance = random.Random(20)
    texts = dict.fromkeys(PIECES)
    while len(texts) < NUM_TEXTS:
        joined = chance.choice(("", " ", "\n", "，", "  ")).join(chance.sample(PIECES, chance.randint(2, 4)))
        begin = chance.randrange(4)
        texts[joined[begin : begin + chance.randint(20, 160)]] = None
    return list(texts)

"""数据里值得看一眼的地方：按种类列出，各有办法。"""

MESSAGES = {
    "check.many_rows": "正在检查 {num_rows} 行；十万行大约要一分钟。",
    "warning.line": "注意：{reason} → {fix}",
    "warning.place": "{place}：{detail}",
    "warning.other": "对照 {other}",
    "warning.more": "……还有 {num_more} 处；--json 和 --html 会全部列出。",
    "warning.exact_duplicate": "有 {num_rows} 行与前面的某一行逐字相同。",
    "warning.exact_duplicate.fix": "每组只留一行，除非有意让它多占比重。",
    "warning.near_duplicate": "有 {num_rows} 行的问题和回答都与前面的某一行几乎相同。",
    "warning.near_duplicate.fix": "留下较好的一行，或者把问题换成真正不同的说法。",
    "warning.contradiction": "有 {num_rows} 行与前面的某一行问题相同，回答却不同。",
    "warning.contradiction.fix": "只认定一个答案：两个都学，模型学到的是混合体。",
    "warning.evaluation_overlap": "有 {num_rows} 行问的正是评测文件里的问题。",
    "warning.evaluation_overlap.fix": "从其中一个文件里拿掉：见过考题的模型，等于没有考。",
    "warning.phone_number": "有 {num_rows} 行里有像是电话号码的内容。",
    "warning.phone_number.fix": "换成虚构的号码：模型可能把训练过的内容原样说出来。",
    "warning.identity_number": "有 {num_rows} 行里有校验位正确的身份证号码。",
    "warning.identity_number.fix": "删掉它：模型可能把训练过的内容原样说出来。",
    "warning.email_address": "有 {num_rows} 行里有电子邮件地址。",
    "warning.email_address.fix": "换掉它，例如换成 name@example.com：模型可能把训练过的内容原样说出来。",
    "warning.bank_card": "有 {num_rows} 行里有校验位正确的银行卡号。",
    "warning.bank_card.fix": "删掉它：模型可能把训练过的内容原样说出来。",
    "train.repeats": (
        "有 {num_duplicates} 行与前面的行重复，{num_contradictions} 行对同一问题给出不同回答；`pangzhu check` 会逐一列出。"
    ),
}

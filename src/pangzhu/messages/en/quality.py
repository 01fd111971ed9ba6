"""What is worth a look in a dataset: warnings by kind, each with its remedy."""

MESSAGES = {
    "check.many_rows": "Checking {num_rows} rows; 100,000 take about a minute.",
    "warning.line": "Warning: {reason} → {fix}",
    "warning.place": "{place}: {detail}",
    "warning.other": "see {other}",
    "warning.more": "… and {num_more} more; --json and --html name them all.",
    "warning.exact_duplicate": "{num_rows} row(s) are word for word an earlier row.",
    "warning.exact_duplicate.fix": "Keep one of each, unless it is meant to weigh more.",
    "warning.near_duplicate": "{num_rows} row(s) are nearly the same as an earlier row, question and answer.",
    "warning.near_duplicate.fix": "Keep the better one, or ask in really different words.",
    "warning.contradiction": "{num_rows} row(s) answer the question of an earlier row in another way.",
    "warning.contradiction.fix": "Decide on one answer: of two, the model learns a mixture.",
    "warning.evaluation_overlap": "{num_rows} row(s) ask what the evaluation file asks.",
    "warning.evaluation_overlap.fix": "Take them out of one of the two files: a model that was told the questions is not tested.",
    "warning.phone_number": "{num_rows} row(s) hold what looks like a phone number.",
    "warning.phone_number.fix": "Replace it by an invented one: a model can recite what it was trained on.",
    "warning.identity_number": "{num_rows} row(s) hold a Chinese identity number with a right check digit.",
    "warning.identity_number.fix": "Delete it: a model can recite what it was trained on.",
    "warning.email_address": "{num_rows} row(s) hold an e-mail address.",
    "warning.email_address.fix": "Replace it, for instance by name@example.com: a model can recite what it was trained on.",
    "warning.bank_card": "{num_rows} row(s) hold a bank card number with a right check digit.",
    "warning.bank_card.fix": "Delete it: a model can recite what it was trained on.",
    "train.repeats": (
        "{num_duplicates} row(s) repeat an earlier one, {num_contradictions} answer a question in another way; "
        "`pangzhu check` names them."
    ),
}

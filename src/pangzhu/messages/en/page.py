"""The page that `check --html` writes."""

MESSAGES = {
    "page.title": "Pangzhu data check",
    "page.noscript": "This page reads its rows with a script of its own. Allow scripts for this file to see them.",
    "page.what_is_learned": "What is learned",
    "page.lesson": (
        "In supervised fine-tuning (SFT) the model reads a whole row, token by token, and guesses each next token. Only where a "
        "token is supervised is the guess compared with the text, and only from there does the model learn: as a rule the "
        "answer and the token that ends it. Everything else is context. The question will be given when the model is "
        "used, so it need not learn to write it; the end token it must learn, or it would never stop."
    ),
    "page.sample_learned": "supervised: the model learns to write this",
    "page.sample_people": "context: people's text, read and not learned",
    "page.sample_template": "written by the model's chat template, not by you",
    "page.sample_control": "control token: where a turn begins or ends; underlined where it is learned",
    "page.token_borders": (
        "A fine line ends each token. A letter that takes several tokens says so when you point at it. ↵ is a line break."
    ),
    "page.distributions": "Lengths",
    "page.tokens_a_row": "Tokens a row",
    "page.learned_percent": "Learned of a row, in percent of its tokens",
    "page.value": "value",
    "page.rows": "rows",
    "page.findings": "Problems and warnings",
    "page.kind": "what",
    "page.remedy": "remedy",
    "page.show": "Show",
    "page.filter": "Filter the rows",
    "page.problem": "Problem",
    "page.warning": "Warning",
    "page.all": "no matter",
    "page.any": "any",
    "page.search": "Text in the row",
    "page.least": "Tokens, at least",
    "page.most": "Tokens, at most",
    "page.reset": "Reset",
    "page.pages_above": "Pages, above the rows",
    "page.pages_below": "Pages, below the rows",
    "page.previous": "Previous",
    "page.next": "Next",
    "page.no_match": "No row fits the filter.",
    "page.no_problem": "None.",
    "page.the_file": "The file itself",
    "page.not_here": "The tokens of this row are not in this page.",
    "page.all_tokens": "Show all tokens",
    "page.several_tokens": "{number} tokens make this letter",
    "page.matches": "{num_found} of {num_rows} rows",
    "page.page_of": "page {number} of {num_pages}",
    "page.figures": "{tokens} tokens, {learned} of them learned ({percent}%)",
    "page.place": "Line {line} (row {row})",
    "page.place_without_line": "Row {row}",
    "page.exact_duplicate": "exact duplicate",
    "page.near_duplicate": "near duplicate",
    "page.contradiction": "another answer to the same question",
    "page.evaluation_overlap": "question of the evaluation file",
    "page.phone_number": "phone number",
    "page.identity_number": "identity number",
    "page.email_address": "e-mail address",
    "page.bank_card": "bank card number",
    "page.left_out": (
        "The page shows the tokens of the first {num_rows} rows only; {num_left_out} more were checked and counted, but not "
        "put in. Check a part of the file to see them."
    ),
    "page.large": "The page has {megabytes} MB: a browser takes a while to open it and needs about three times as much memory.",
    "page.private": (
        "The page shows the rows as they are, with the personal data in them. Think of that before you pass it on."
    ),
}

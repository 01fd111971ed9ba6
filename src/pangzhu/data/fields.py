"""The names a dataset's fields go by, in the formats that Pangzhu reads."""

QUESTION_FIELDS = ("instruction", "prompt", "question")
ANSWER_FIELDS = ("output", "response", "answer")
ALPACA_FIELDS = (*QUESTION_FIELDS, "input", *ANSWER_FIELDS, "history")
CHAT_FIELDS = ("messages", "conversations")
ROW_FIELDS = (*ALPACA_FIELDS, *CHAT_FIELDS, "system")
"""Every field whose text is trained on or shown to the model; any other is kept beside the text."""

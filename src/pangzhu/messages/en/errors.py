"""How an error is laid out."""

MESSAGES = {
    "error.what": "Error: {what}",
    "error.where": "  Where: {where}",
    "error.fix": "  Fix:   {fix}",
    "error.nearest": " Did you mean “{word}”?",
}

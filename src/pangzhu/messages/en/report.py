"""The report page and its verdict."""

MESSAGES = {
    "report.curves": "While training",
    "report.questions": "Every question, every answer",
    "report.marking.before": "Against the expected answer,",
    "report.marking.added": "what a model added",
    "report.marking.between": " and",
    "report.marking.missing": "what it left out",
    "report.marking.after": " are marked.",
    "report.expected": "expected",
    "report.use": "How to use it",
    "verdict.unchanged": "The adapter changes nothing: every answer is the base model's own.",
    "verdict.runs_on": "Only {num} of {total} taught answers end by themselves: how an answer ends was not learned.",
    "verdict.not_learned": "What was taught was not learned: {num} of {total} taught questions are answered as taught.",
    "verdict.partly_learned": "Learned in part: {num} of {total} taught questions are answered as taught.",
    "verdict.broken": "General answers are broken: only {agreement:.0%} of the base's own words are still the first choice.",
    "verdict.drifted": "It has moved away from the base: {agreement:.0%} of the base's own words on general prompts are still the "
    "first choice.",
    "verdict.choices_lost": "General ability was lost: {lost:.0%} fewer multiple-choice questions are answered rightly, more than chance "
    "explains.",
    "verdict.recites": "It recites: {num} of {total} untaught questions are answered with a taught answer.",
    "verdict.by_heart": "Learned by heart: of the same facts in other wordings {num} of {total} are answered as taught.",
    "verdict.nothing_asked": "No taught question was asked, so nothing can be said of what was learned.",
    "verdict.taught": "Learned: {num} of {total} taught questions are answered as taught; other wordings were not asked.",
    "verdict.learned": "Learned: {num} of {total} taught questions are answered as taught, and {reworded} of {num_reworded} in wordings "
    "never trained.",
}

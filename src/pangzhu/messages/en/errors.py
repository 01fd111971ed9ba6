"""How an error is laid out, and what a disk refuses."""

MESSAGES = {
    "error.what": "Error: {what}",
    "error.where": "  Where: {where}",
    "error.fix": "  Fix:   {fix}",
    "error.disk.full": "The disk is full.",
    "error.disk.full.fix": "Free some space and give the same command again.",
    "error.disk.forbids": "This file or folder cannot be used: {reason}.",
    "error.disk.forbids.fix": (
        "Correct its permissions, or give another path; where a folder is needed, no file may stand, and the reverse."
    ),
    "error.disk.gone": "The folder of this file is gone: somebody moved or deleted it meanwhile, or its disk was taken away.",
    "error.disk.gone.fix": "Put it back, or give the same command again to begin anew.",
    "error.disk.held": "Another program holds this file open.",
    "error.disk.held.fix": "Close the program, or let the virus scanner leave the folder out, and give the same command again.",
    "error.nearest": " Did you mean “{word}”?",
}

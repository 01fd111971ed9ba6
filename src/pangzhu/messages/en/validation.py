"""Rows that are measured and never trained, and where figures are reported to."""

MESSAGES = {
    "error.config.without_validation": "--{name} was given without --validation_path.",
    "error.config.without_validation.fix": "Give --validation_path too, or leave --{name} out.",
    "error.config.unknown_tracker": "“{name}” is no tracker that is reported to.{hint}",
    "error.config.unknown_tracker.fix": "Give one of {known}; for several, give --report_to several times.",
    "error.config.tracker_and_none": "--report_to names trackers and none at once.",
    "error.config.tracker_and_none.fix": "Leave none out, or the trackers.",
    "error.data.nothing_to_measure": "No row of the validation file is left to measure.",
    "error.data.nothing_to_measure.fix": "Check the file, --max_seq_length and --overlong.",
    "error.train.validation_not_finite": "The loss of validation rows became NaN or infinite after step {step}.",
    "error.train.validation_not_finite.fix": "Lower --learning_rate, or try --precision float32; look at the rows named.",
    "error.train.tracker_missing": "The tracker {name} is not installed.",
    "error.train.tracker_missing.fix": "Install it, then give the same command again: pip install {name}",
    "error.train.no_tracker": "No tracker is installed: neither of {known}.",
    "error.train.no_tracker.fix": "Install one, for instance: pip install tensorboard",
    "validation.rows": "Validation: {path}\n  {rows} rows, {supervised} tokens of answers, measured every {every} steps and after the last: "
    "{times} times at the most",
    "validation.overlap": "Warning: {num_rows} row(s) that are trained ask what the validation file asks, the first {first} (see {other}): "
    "what is learned by heart looks like progress there. Take them out of one of the two files.",
    "validation.measured": "validation after step {step}  loss {loss:.4f}  perplexity {perplexity:.2f}  learned {learned}/{num_rows} rows  "
    "{standing}",
    "validation.lowest": "the lowest so far",
    "validation.not_lowest": "lowest {loss:.4f} after step {step}",
    "validation.exhausted": "Stopping after step {step}: measured {patience} time(s) without a lower validation loss than {loss:.4f}, that of "
    "step {best}.",
    "validation.publishes_best": "Published are the weights of step {step}, those with the lowest validation loss: {loss:.4f}.",
    "validation.publishes_learned": "Published are the weights of step {step}, which have learned all rows (--until_learned); their "
    "validation loss is {loss:.4f}, the lowest was {lowest:.4f} after step {best}.",
    "validation.publishes_last": "Published are the last weights, of step {step} (--no_load_best_model_at_end); their validation loss is "
    "{loss:.4f}, the lowest was {lowest:.4f} after step {best}.",
    "validation.best_lost": "Warning: the checkpoint with the lowest validation loss ({lowest:.4f} after step {best}) is damaged or missing: "
    "{folder}. Published in its place are the last weights, of step {step}, with {loss:.4f}. To make the best again, train anew with "
    "--resume never.",
    "trackers.reports_to": "Settings and figures are reported to: {names}",
    "trackers.tensorboard": "To look at them: tensorboard --logdir {folder}",
}

"""Options and configuration files."""

MESSAGES = {
    "error.config.overlong_without_length": "--overlong {overlong} was given without --max_seq_length.",
    "error.config.overlong_without_length.fix": "Give --max_seq_length too, or leave --overlong out.",
    "error.config.top_p_without_temperature": "--top_p {top_p} was given at temperature 0, where nothing is drawn.",
    "error.config.top_p_without_temperature.fix": "Give --temperature too, for instance 0.7, or leave --top_p out.",
    "error.config.unknown_key": "Unknown option “{name}”.{hint}",
    "error.config.unknown_key.fix": "Correct the name; `--help` lists every option.",
    "error.config.empty_path": "A path is empty.",
    "error.config.empty_path.fix": "Give a path; in a script, check that the variable is set.",
    "error.config.not_html": "The page would be written to “{name}”, which is not named .html.",
    "error.config.not_html.fix": "Give the page a name that ends in .html; so no dataset is written over by mistake.",
    "error.config.unreadable": "The configuration file cannot be read: {reason}.",
    "error.config.unreadable.fix": "Check the path and the file's permissions.",
    "error.config.not_yaml": "The configuration file is not valid YAML: {reason}.",
    "error.config.not_yaml.fix": "Write one `key: value` a line, encoded as UTF-8.",
    "error.config.not_mapping": "The configuration file holds no `key: value` lines.",
    "error.config.not_mapping.fix": "Write one option a line, for instance `max_steps: 50`.",
    "error.config.missing": "The option --{name} is required.",
    "error.config.missing.fix": "Give --{name}, or put it into the --config file.",
    "error.config.invalid_value": "--{name} does not accept “{value}”: {reason}.",
    "error.config.invalid_value.fix": "Give a value that --help describes for --{name}.",
}

"""选项与配置文件。"""

MESSAGES = {
    "error.config.overlong_without_length": "给了 --overlong {overlong}，却没有给 --max_seq_length。",
    "error.config.overlong_without_length.fix": "同时给出 --max_seq_length，或去掉 --overlong。",
    "error.config.top_p_without_temperature": "给了 --top_p {top_p}，但温度为 0 时不作抽样，它不起作用。",
    "error.config.top_p_without_temperature.fix": "同时给出 --temperature，例如 0.7，或去掉 --top_p。",
    "error.config.unknown_key": "没有“{name}”这个选项。{hint}",
    "error.config.unknown_key.fix": "改正名称；`--help` 会列出全部选项。",
    "error.config.empty_path": "有一个路径是空的。",
    "error.config.empty_path.fix": "请给出路径；如果写在脚本里，请检查变量是否已经设置。",
    "error.config.not_html": "网页要写进“{name}”，但这个文件名不以 .html 结尾。",
    "error.config.not_html.fix": "给网页起一个以 .html 结尾的文件名，以免误写到数据文件上。",
    "error.config.unreadable": "读不了配置文件：{reason}。",
    "error.config.unreadable.fix": "检查路径和文件权限。",
    "error.config.not_yaml": "配置文件不是合法的 YAML：{reason}。",
    "error.config.not_yaml.fix": "每行写一个 `键: 值`，用 UTF-8 保存。",
    "error.config.not_mapping": "配置文件里没有 `键: 值` 形式的内容。",
    "error.config.not_mapping.fix": "每行写一个选项，例如 `max_steps: 50`。",
    "error.config.missing": "缺少必需的选项 --{name}。",
    "error.config.missing.fix": "在命令行给出 --{name}，或写进 --config 文件。",
    "error.config.invalid_value": "--{name} 不接受“{value}”：{reason}。",
    "error.config.invalid_value.fix": "请按 --help 对 --{name} 的说明填写。",
}

"""错误信息的版式。"""

MESSAGES = {
    "error.what": "错误：{what}",
    "error.where": "  位置：{where}",
    "error.fix": "  办法：{fix}",
    "error.nearest": " 您是不是想写“{word}”？",
}

"""读取数据：逐行的问题，以及整个文件的错误。"""

MESSAGES = {
    "finding.line": "{place}：{reason} → {fix}",
    "error.data.bad_rows": "共 {num_rows} 行数据，有 {num_findings} 个问题。",
    "error.data.bad_rows.fix": "按上面列出的位置逐一改正；`pangzhu check 文件` 可再次检查。",
}

"""Reading datasets: findings by row, and errors of whole files."""

MESSAGES = {
    "finding.line": "{place}: {reason} → {fix}",
    "error.data.bad_rows": "{num_findings} problem(s) in {num_rows} rows.",
    "error.data.bad_rows.fix": "Correct the rows listed above; `pangzhu check FILE` lists them again.",
}

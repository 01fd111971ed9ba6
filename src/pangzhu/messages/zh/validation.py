"""只测量、不训练的数据行，以及数字报告到哪里。"""

MESSAGES = {
    "error.config.without_validation": "给了 --{name}，却没有给 --validation_path。",
    "error.config.without_validation.fix": "同时给出 --validation_path，或去掉 --{name}。",
    "error.config.unknown_tracker": "不支持把数字报告到“{name}”。{hint}",
    "error.config.unknown_tracker.fix": "可选：{known}；要用几个，就把 --report_to 给几次。",
    "error.config.tracker_and_none": "--report_to 同时给了 none 和别的工具。",
    "error.config.tracker_and_none.fix": "去掉 none，或去掉别的工具。",
    "error.data.nothing_to_measure": "验证文件里没有剩下任何可以测量的行。",
    "error.data.nothing_to_measure.fix": "检查文件、--max_seq_length 和 --overlong。",
    "error.train.validation_not_finite": "第 {step} 步之后，验证数据的损失变成了 NaN 或无穷大。",
    "error.train.validation_not_finite.fix": "调小 --learning_rate，或试试 --precision float32；并检查上面列出的数据行。",
    "error.train.tracker_missing": "没有安装 {name}。",
    "error.train.tracker_missing.fix": "安装之后再运行同一条命令：pip install {name}",
    "error.train.no_tracker": "{known} 一个也没有安装。",
    "error.train.no_tracker.fix": "安装一个，例如：pip install tensorboard",
    "validation.rows": "验证数据：{path}\n  {rows} 行，回答共 {supervised} 个词元，每 {every} 步和最后一步之后各测一次，最多 {times} 次",
    "validation.overlap": "注意：参与训练的数据里有 {num_rows} 行问了验证文件里的问题，第一处是 {first}（见 {other}）：背下来的内容在那里看上去像进步。"
    "请从两个文件之一中去掉它们。",
    "validation.measured": "验证  第 {step} 步之后  损失 {loss:.4f}  困惑度 {perplexity:.2f}  学会 {learned}/{num_rows} 行  {standing}",
    "validation.lowest": "目前最低",
    "validation.not_lowest": "最低 {loss:.4f}，在第 {step} 步之后",
    "validation.exhausted": "第 {step} 步之后停止：连续 {patience} 次测量，验证损失都没有低于第 {best} 步的 {loss:.4f}。",
    "validation.publishes_best": "发布的是第 {step} 步的权重，它的验证损失最低：{loss:.4f}。",
    "validation.publishes_learned": "发布的是第 {step} 步的权重，它学会了每一行（--until_learned）；它的验证损失是 {loss:.4f}，最低的是第 {best} 步的 "
    "{lowest:.4f}。",
    "validation.publishes_last": "发布的是最后的权重，即第 {step} 步（--no_load_best_model_at_end）；它的验证损失是 {loss:.4f}，最低的是第 {best} 步的 "
    "{lowest:.4f}。",
    "validation.best_lost": "注意：验证损失最低（第 {best} 步，{lowest:.4f}）的检查点已损坏或丢失：{folder}。改为发布最后的权重，即第 {step} 步，"
    "它的验证损失是 {loss:.4f}。若要重新得到最好的，请用 --resume never 重新训练。",
    "trackers.reports_to": "设置和数字报告到：{names}",
    "trackers.tensorboard": "查看：tensorboard --logdir {folder}",
}

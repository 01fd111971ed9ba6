"""模板、标签、训练，以及训练过程中的提示。"""

MESSAGES = {
    "template.chatml": "基座模型没有对话模板：改用 ChatML，每一轮以基座自己的 {eos} 结束。",
    "error.template.several": "分词器带有多个不同名称的对话模板。",
    "error.template.several.fix": "在模型文件夹里只保留一个，存为 chat_template.jinja。",
    "error.template.no_end": "这个对话模板没有用任何词元结束回答，模型无从学会停下来。",
    "error.template.no_end.fix": "换用 instruct 模型，或修正模型文件夹里的 chat_template.jinja。",
    "error.template.refused": "基座的对话模板拒绝了这段对话：{reason}。",
    "error.template.refused.fix": "按模板要求排列角色（先 system，再 user 与 assistant 轮流）；若基座不支持 system，请去掉它。",
    "error.template.unbounded": "这个对话模板处理一段很短的对话就要超过 {seconds:g} 秒、{megabytes} MB 内存或 {letters:,} 个字符，不予使用。",
    "error.template.unbounded.fix": "不要信任它的来源：请换用其他来源的模型或适配器。",
    "error.template.not_tried": "没能试运行对话模板：这个 Python 无法再启动一个进程（{python}）。",
    "error.template.not_tried.fix": "请把旁注装进虚拟环境（python -m venv），再从那里运行命令。",
    "error.prompt.unreadable": "读不了提示约定 prompt.json：{reason}。",
    "error.prompt.unreadable.fix": "从适配器的来源重新拷贝 prompt.json，或重新训练。",
    "error.prompt.template_changed": "prompt.json 里的对话模板与它自己记录的哈希不一致。",
    "error.prompt.template_changed.fix": "从适配器的来源重新拷贝 prompt.json，或重新训练。",
    "finding.prompt_no_prefix": "加上回答后，对话模板改写了问题部分，标签无法证明正确",
    "finding.prompt_no_prefix.fix": "修改这一行的文字，或换一个基座模型",
    "finding.no_end_token": "回答没有结束词元",
    "finding.no_end_token.fix": "让对话以 assistant 一轮结尾",
    "finding.nothing_supervised": "套用对话模板后，回答里没有任何可学的内容",
    "finding.nothing_supervised.fix": "写一个不只是空白的回答",
    "finding.control_tokens_changed": "文字改变了模板的控制词元",
    "finding.control_tokens_changed.fix": "去掉文字里的 <think>、<|im_start|> 之类的标记",
    "finding.template_refused": "基座的对话模板拒绝了这一行：{reason}",
    "finding.template_refused.fix": "按模板要求排列角色，或去掉 system",
    "finding.hopelessly_long": "有 {letters} 个字，无论如何都远远超过 {limit} 个词元的上限",
    "finding.hopelessly_long.fix": "缩短这一行，或把它拆成几行，或选择 --overlong drop（丢弃）",
    "finding.too_long": "有 {length} 个词元，超过上限 {limit}",
    "finding.too_long.fix": "调大 --max_seq_length，缩短这一行，或选择 --overlong drop（丢弃）/ truncate（截断）",
    "finding.cut_to_nothing": "从 {length} 截到 {limit} 个词元后，回答什么也不剩",
    "finding.cut_to_nothing.fix": "调大 --max_seq_length，或缩短问题",
    "error.data.nothing_to_learn": "没有剩下任何可学的数据行。",
    "error.data.nothing_to_learn.fix": "检查数据文件、--max_seq_length 和 --overlong。",
    "error.config.longer_than_context": "--max_seq_length {wanted} 超过了模型的上下文长度 {limit} 个词元。",
    "error.config.longer_than_context.fix": "最大填 {limit}，或不填 --max_seq_length。",
    "data.packaged_examples": "没有给出 --dataset_path：使用自带的示例指令（{path}）。",
    "data.skipped": "已跳过：{finding}",
    "data.rejects_kept": "已按 --skip_bad 略去，共 {rows} 处问题，列在 {file}",
    "train.base": "{why}",
    "train.rows": "数据：{path}\n  {rows} 行，{tokens} 个词元，其中 {supervised} 个（{share:.0f}%）参与学习；最长一行 {longest} 个词元",
    "train.replay": "  其中 {counted} 行要学会；另外 {replay} 行一起训练，用来保住其他本领",
    "train.overlong": "  超长：丢弃 {dropped} 行，截断 {truncated} 行",
    "train.steps": "计划：{steps} 个优化步，每步 {rows_per_step} 行，一轮 {per_epoch} 步；每行会看到 {passes:.1f} 次",
    "train.too_few_steps": "注意：{steps} 步（{passes:.1f} 轮）太少，学不到多少东西。请调大 --num_train_epochs 或 --max_steps，"
    "或调小 --per_device_train_batch_size。",
    "train.preview": "第一行数据，⟦ ⟧ 之内的部分参与学习：\n{preview}",
    "train.probe": "实测速度：bf16 {bf16:.0f}，float32 {float32:.0f} GFLOP/s → 选用 {chosen}",
    "train.memory": "内存：最多约 {gigabytes:.1f} GB",
    "train.model": "LoRA：{trainable:,} 个可训练参数；基座用 {precision}，{threads} 个线程，每个微批最多 {budget} 个词元",
    "fast.off": "快速路径：关；原样使用 transformers 和 peft",
    "fast.reason": "{reason}",
    "fast.takes_reference": "{part}走参考路径（transformers、peft）：{reason}。",
    "fast.part.decoder": "各层",
    "fast.part.head": "输出头",
    "fast.part.adapters": "{value} 个适配器",
    "fast.reason.device": "设备是 {value}",
    "fast.reason.family": "快速路径不认识 {value}",
    "fast.reason.window": "有的行比 {value} 个词元的滑动窗口还长",
    "fast.reason.activation": "激活函数是 {value}，不是 silu",
    "fast.reason.dropout": "基座自带 {value} 的 dropout",
    "fast.reason.head": "它带有适配器或偏置",
    "fast.reason.logits": "基座会改动 logits（{value}）",
    "fast.reason.adapters": "不是普通的 LoRA（DoRA、同时多个、已合并）",
    "train.resumed": "从 {checkpoint} 继续训练",
    "train.step": "第 {step}/{num_steps} 步  损失 {loss:.4f}  {tokens_per_second:.0f} 词元/秒  已学会 {learned}/{num_rows} 行  剩余 {left}",
    "train.out_of_memory": "内存不够了：从这里起每个微批次最多 {budget} 个词元，优化步不变。",
    "train.all_learned": "第 {step} 步，全部数据行都已学会，并已用将要保存的权重确认。",
    "train.confirming": "正在用将要保存的权重确认学到了什么……",
    "train.stopping": "这一步结束后停止并保存……（再按一次立即退出）",
    "train.proven": "已证明：从磁盘读回的适配器与训练好的模型输出逐位相同；与基座相比，logit 最大变化 {change:.2f}",
    "train.done": "完成：{num_steps} 步，用时 {seconds:.0f} 秒，{num_rows} 行中学会 {num_learned} 行。适配器：{output_dir}",
    "train.already_finished": "同样的训练已经完成：{num_steps} 步，{num_rows} 行中学会 {num_learned} 行。适配器：{output_dir}。"
    "修改数据或设置后再运行即可重新训练。",
    "train.adapter_damaged": "这次已完成的训练，其适配器已损坏（{fault}），现在重新生成。",
    "error.train.interrupted": "训练被中断，最后一步之后的状态已经保存。",
    "error.train.interrupted.fix": "再次运行同一条命令，就会从停下的地方继续。",
    "error.train.loss_not_finite": "第 {step} 步的损失变成了 NaN 或无穷大。",
    "error.train.loss_not_finite.fix": "调小 --learning_rate，或试试 --precision float32；并检查上面列出的数据行。",
    "error.train.gradient_not_finite": "第 {step} 步的梯度变成了 NaN 或无穷大。",
    "error.train.gradient_not_finite.fix": "调小 --learning_rate，或试试 --precision float32。",
    "run.set_aside": "之前的训练已移到 {folder}",
    "run.damaged_checkpoint": "一个损坏的检查点已另存为 {folder}，改用它之前的那个",
    "error.train.distributed": "这个版本还不支持在多个设备或多台机器上训练。",
    "error.train.distributed.fix": "请不要用 torchrun 或 accelerate launch 启动。",
    "error.run.foreign_file": "适配器会覆盖这个文件。",
    "error.run.foreign_file.fix": "换一个空的 --output_dir，或把这个文件移走。",
    "error.run.locked": "另一个训练（进程 {holder}）正在使用这个文件夹。",
    "error.run.locked.fix": "等它结束，或换一个 --output_dir。",
    "error.run.not_writable": "无法写入输出文件夹：{reason}。",
    "error.run.not_writable.fix": "换一个 --output_dir，或修正它的权限。",
    "error.run.another": "这个文件夹里有一个未完成的训练，数据或设置不同。已有 → 现在要的：\n    {differences}",
    "error.run.another.fix": "用原来的设置把它跑完，换一个 --output_dir 或把这个文件夹移走，或用 --resume never 重新开始"
    "（旧的训练会保留在 run/previous-N）。",
    "error.run.record_broken": "训练记录已损坏：{reason}。",
    "error.run.record_broken.fix": "换一个 --output_dir，或把这个文件夹移走。",
    "card.body": """
# {base} 的 LoRA 适配器

由旁注（Pangzhu）训练。它只会说教过它的内容，不能当作这之外的知识来源。

| | |
|---|---|
| 基座模型 | {base} |
| 逐字学会的数据行 | {num_rows} 行中的 {num_learned} 行 |
| 优化步数 | {num_steps} |
| 最后的训练损失 | {train_loss} |

## 设置

| 选项 | 值 |
|---|---|
{settings}

## 使用

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

或者运行 `pangzhu chat --adapter {folder}`。适配器会改变模型说的话，只加载您信任的人做的适配器。
""",
}

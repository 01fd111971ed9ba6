"""What a run would do, before it does it."""

MESSAGES = {
    "plan.measuring": "Timing a few optimizer steps on rows of this dataset; nothing of it is kept …",
    "plan.title": "What `train` would do",
    "plan.data": "Data",
    "plan.rows": "{rows:,} rows; longest {longest:,} tokens",
    "plan.tokens": "Tokens of a pass",
    "plan.tokens.figures": "{tokens:,}, of which {supervised:,} ({share:.0f}%) are learned",
    "plan.steps": "Optimizer steps",
    "plan.steps.figures": "{steps:,} of {rows_per_step} rows, {per_epoch:,} a pass; each row is seen {passes:.1f} times",
    "plan.micro_batches": "Micro-batches",
    "plan.micro_batches.figures": "{number:.1f} a step, {tokens:.0f} tokens each; at most {budget:,}",
    "plan.validation": "Validation",
    "plan.validation.figures": "{rows:,} rows, {supervised:,} tokens of answers; every {every:,} steps, {times:,} times in all",
    "plan.model": "Base model",
    "plan.model.figures": "{base}: {parameters:,} parameters",
    "plan.adapter": "Adapter",
    "plan.adapter.figures": "{trainable:,} trainable parameters, {share:.2f}% of the base",
    "plan.precision": "Number format",
    "plan.precision.probed": "{chosen}: {bf16:.0f} GFLOP/s in bf16, {float32:.0f} in float32 ({instruction_set}); {threads} threads",
    "plan.precision.given": "{chosen}, as given; {threads} threads",
    "plan.precision.gpu": "{chosen}: on a GPU",
    "plan.path": "Path",
    "plan.path.fast": "the fast path",
    "plan.memory": "Memory at the peak",
    "plan.memory.figures": "{peak:.2f} GB; {free:.1f} GB are free",
    "plan.memory.loading": "{peak:.2f} GB, while the weights are read; {free:.1f} GB are free",
    "plan.gigabytes": "{size:.2f} GB",
    "plan.memory.libraries": "  libraries",
    "plan.memory.weights": "  weights of the base",
    "plan.memory.adapter": "  adapter and optimizer",
    "plan.memory.heap": "  compiled products, scratch",
    "plan.memory.micro_batch": "  a micro-batch of {tokens:,} tokens",
    "plan.memory.logits": "  logits",
    "plan.disk": "Disk",
    "plan.disk.figures": "{total:.0f} MB at the most; {free:.1f} GB are free",
    "plan.megabytes": "{size:.1f} MB",
    "plan.disk.adapter": "  adapter",
    "plan.disk.tokenizer": "  tokenizer",
    "plan.disk.checkpoints": "  checkpoints in run/, at most {number}",
    "plan.time": "Time",
    "plan.time.figures": "about {minutes:.1f} minutes",
    "plan.time.at_most": "about {minutes:.1f} minutes at the most: it may stop earlier (--until_learned, --early_stopping_patience)",
    "plan.time.not_measured": "not measured (--no_measure)",
    "plan.seconds": "{seconds:.0f} s",
    "plan.time.preparing": "  starting, reading, labelling",
    "plan.time.loading": "  loading the model",
    "plan.time.stepping": "  optimizer steps",
    "plan.time.stepping.figures": "{seconds:.0f} s, {each:.1f} s each (from {number} that were timed)",
    "plan.time.validating": "  measuring the validation rows",
    "plan.time.confirming": "  confirming what was learned",
    "plan.time.proving": "  writing and proving the adapter",
    "plan.advice.more_steps": "{steps} steps ({passes:.1f} passes) are too few to learn much: give --max_steps {max_steps} at the least.",
    "plan.advice.more_passes": "{steps} steps ({passes:.1f} passes) are too few to learn much: give --num_train_epochs {epochs} at the least.",
    "plan.advice.smaller_batch": "{steps} steps are too few to learn much, though there are {passes:.1f} passes: "
    "--per_device_train_batch_size {batch_size} makes {then} steps of the same passes.",
    "plan.advice.long_rows": "{num_longer} of {rows} rows are longer than {limit} tokens and hold {left_out:.0f}% of all tokens. "
    "--max_seq_length {limit} with --overlong drop leaves them out and saves those {left_out:.0f}%; with --overlong truncate it "
    "cuts their ends and saves {cut:.0f}%.",
    "plan.advice.joined_batches": "Micro-batches of {tokens:.0f} tokens are slow: every weight is read for each of them. "
    "--per_device_train_batch_size {batch_size} with --gradient_accumulation_steps 1 takes the same steps in about {saved:.0f}% "
    "less time.",
    "plan.advice.larger_batch": "Micro-batches of {tokens:.0f} tokens are slow: every weight is read for each of them. "
    "--per_device_train_batch_size {batch_size} takes about {saved:.0f}% less time a pass, in {then} steps in place of {steps}.",
    "plan.advice.smaller_budget": "Memory may run out: {needed:.1f} GB more are needed, {free:.1f} GB are free. --token_budget {budget} "
    "needs {then:.1f} GB, with the same result.",
    "plan.advice.bf16": "Memory may run out: {needed:.1f} GB more are needed, {free:.1f} GB are free. --precision bf16 needs about "
    "{then:.1f} GB; on this machine it may be slower.",
    "plan.advice.smaller_model": "Memory may run out: {needed:.1f} GB more are needed, {free:.1f} GB are free. Close other programs, "
    "shorten the longest rows (--max_seq_length), or take a smaller base.",
    "plan.advice.disk": "The disk is too small: {needed:.0f} MB are needed, {free:.0f} MB are free. Free some space or choose "
    "another --output_dir.",
}

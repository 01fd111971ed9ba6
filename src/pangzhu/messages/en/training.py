"""Templates, labels, training and what is said while it runs."""

MESSAGES = {
    "template.chatml": "The base has no chat template: ChatML is used, each turn closed by the base's own {eos}.",
    "error.template.several": "The tokenizer carries several chat templates under different names.",
    "error.template.several.fix": "Keep one in the model folder, as chat_template.jinja.",
    "error.template.no_end": "The chat template closes no answer with a token, so the model could never learn to stop.",
    "error.template.no_end.fix": "Use an instruct model, or correct chat_template.jinja in the model folder.",
    "error.template.refused": "The base's chat template refuses this conversation: {reason}.",
    "error.template.refused.fix": "Put the roles in the order the template wants (system first, then user and "
    "assistant in turn), or leave the system text out if the base knows none.",
    "error.template.unbounded": "The chat template takes more than {seconds:g} seconds, {megabytes} MB of memory or {letters:,} letters "
    "of text for a short conversation; it is not used.",
    "error.template.unbounded.fix": "Do not trust where it came from: use the model or adapter of another source.",
    "error.template.not_tried": "The chat template could not be tried out: this Python cannot start another ({python}).",
    "error.template.not_tried.fix": "Install Pangzhu into a virtual environment (python -m venv) and run the command from there.",
    "error.prompt.unreadable": "The prompt contract cannot be read: {reason}.",
    "error.prompt.unreadable.fix": "Copy prompt.json again from where the adapter came from, or train again.",
    "error.prompt.template_changed": "The chat template in prompt.json is not the one its own hash names.",
    "error.prompt.template_changed.fix": "Copy prompt.json again from where the adapter came from, or train again.",
    "finding.prompt_no_prefix": "the chat template changes the question once it is answered, so its labels cannot be proven",
    "finding.prompt_no_prefix.fix": "correct the row's text, or use another base model",
    "finding.no_end_token": "the answer has no end-of-turn token",
    "finding.no_end_token.fix": "make the conversation end with an assistant turn",
    "finding.nothing_supervised": "the chat template leaves nothing of the answer to learn",
    "finding.nothing_supervised.fix": "write an answer that is more than white space",
    "finding.control_tokens_changed": "the text changes the template's control tokens",
    "finding.control_tokens_changed.fix": "take marks such as <think> or <|im_start|> out of the text",
    "finding.template_refused": "the base's chat template refuses the row: {reason}",
    "finding.template_refused.fix": "put the roles in the order the template wants, or leave the system text out",
    "finding.hopelessly_long": "{letters} letters, in any case far more than the {limit} tokens allowed",
    "finding.hopelessly_long.fix": "shorten the row or cut it into several, or choose --overlong drop",
    "finding.too_long": "{length} tokens, more than the {limit} allowed",
    "finding.too_long.fix": "raise --max_seq_length, shorten the row, or choose --overlong drop or truncate",
    "finding.cut_to_nothing": "cut from {length} to {limit} tokens, nothing of the answer is left",
    "finding.cut_to_nothing.fix": "raise --max_seq_length or shorten the question",
    "error.data.nothing_to_learn": "No row is left to learn from.",
    "error.data.nothing_to_learn.fix": "Check the file, --max_seq_length and --overlong.",
    "error.config.longer_than_context": "--max_seq_length {wanted} is longer than the model's context of {limit} tokens.",
    "error.config.longer_than_context.fix": "Give at most {limit}, or leave --max_seq_length out.",
    "data.packaged_examples": "No --dataset_path given: the packaged example instructions are used ({path}).",
    "data.skipped": "Skipped: {finding}",
    "data.rejects_kept": "Left out with --skip_bad: {rows} problem(s), listed in {file}",
    "train.base": "{why}",
    "train.rows": "Data: {path}\n  {rows} rows, {tokens} tokens, of which {supervised} ({share:.0f}%) are learned; "
    "longest row {longest} tokens",
    "train.replay": "  {counted} of them are to be learned; {replay} are trained beside them so that other abilities stay",
    "train.overlong": "  Too long: {dropped} rows left out, {truncated} cut",
    "train.steps": "Plan: {steps} optimizer steps of {rows_per_step} rows, {per_epoch} steps a pass; each row is seen "
    "{passes:.1f} times",
    "train.too_few_steps": "Warning: {steps} steps ({passes:.1f} passes) are too few to learn much. Raise "
    "--num_train_epochs or --max_steps, or lower --per_device_train_batch_size.",
    "train.preview": "First row; what stands in ⟦ ⟧ is learned:\n{preview}",
    "train.probe": "Probe: bf16 {bf16:.0f}, float32 {float32:.0f} GFLOP/s → {chosen}",
    "train.memory": "Memory: about {gigabytes:.1f} GB at the most",
    "train.model": "LoRA: {trainable:,} trainable parameters; base in {precision}, {threads} threads, micro-batches of "
    "at most {budget} tokens",
    "fast.off": "Fast path: off; transformers and peft as they are",
    "fast.reason": "{reason}",
    "fast.takes_reference": "The reference path (transformers, peft) computes {part}: {reason}.",
    "fast.part.decoder": "the layers",
    "fast.part.head": "the head",
    "fast.part.adapters": "{value} adapters",
    "fast.reason.device": "the device is {value}",
    "fast.reason.family": "{value} is not known to the fast path",
    "fast.reason.window": "rows are longer than the sliding window of {value} tokens",
    "fast.reason.activation": "the activation is {value}, not silu",
    "fast.reason.dropout": "the base has a dropout of {value}",
    "fast.reason.head": "it carries an adapter or a bias",
    "fast.reason.logits": "the base changes its logits ({value})",
    "fast.reason.adapters": "they are not plain LoRA (DoRA, several at once, merged)",
    "train.resumed": "Going on from {checkpoint}",
    "train.step": "step {step}/{num_steps}  loss {loss:.4f}  {tokens_per_second:.0f} tokens/s  learned "
    "{learned}/{num_rows} rows  {left} left",
    "train.out_of_memory": "Memory ran out: micro-batches of at most {budget} tokens from here on, with the same optimizer steps.",
    "train.all_learned": "All rows are learned at step {step}, confirmed with the weights that will be saved.",
    "train.confirming": "Confirming what was learned with the weights that will be saved …",
    "train.stopping": "Stopping after this step and saving … (once more leaves at once)",
    "train.proven": "Proven: loaded back from disk, the adapter gives the trained model's logits to the bit; largest "
    "change of a logit against the base {change:.2f}",
    "train.done": "Done: {num_learned} of {num_rows} rows learned in {num_steps} steps, {seconds:.0f} s. Adapter: "
    "{output_dir}",
    "train.already_finished": "This very run is finished already: {num_learned} of {num_rows} rows learned in "
    "{num_steps} steps. Adapter: {output_dir}. Change data or settings to train anew.",
    "train.adapter_damaged": "The adapter of this finished run is damaged ({fault}): it is made again.",
    "error.train.interrupted": "Interrupted; the state after the last step is saved.",
    "error.train.interrupted.fix": "Give the same command again to go on where it stopped.",
    "error.train.loss_not_finite": "The loss became NaN or infinite in step {step}.",
    "error.train.loss_not_finite.fix": "Lower --learning_rate, or try --precision float32; look at the rows named.",
    "error.train.gradient_not_finite": "The gradient became NaN or infinite in step {step}.",
    "error.train.gradient_not_finite.fix": "Lower --learning_rate, or try --precision float32.",
    "run.set_aside": "An earlier run was moved to {folder}",
    "run.damaged_checkpoint": "A damaged checkpoint was set aside as {folder}; the one before it is used",
    "error.train.distributed": "Training on several devices or machines is not in this release.",
    "error.train.distributed.fix": "Start it without torchrun or accelerate launch.",
    "error.run.foreign_file": "This file would be overwritten by the adapter's.",
    "error.run.foreign_file.fix": "Choose an empty --output_dir, or move the file away.",
    "error.run.locked": "Another run (process {holder}) is working in this folder.",
    "error.run.locked.fix": "Wait until it ends, or choose another --output_dir.",
    "error.run.not_writable": "The output folder cannot be written: {reason}.",
    "error.run.not_writable.fix": "Choose another --output_dir, or correct its permissions.",
    "error.run.another": "An unfinished run with other data or settings lives in this folder. It has → you want:\n"
    "    {differences}",
    "error.run.another.fix": "Finish it with its own settings, choose another --output_dir or move the folder away, or start "
    "anew with --resume never (the old run is kept under run/previous-N).",
    "error.run.record_broken": "The record of the run is damaged: {reason}.",
    "error.run.record_broken.fix": "Choose another --output_dir, or move this folder away.",
    "card.body": """
# LoRA adapter for {base}

Made with Pangzhu. It says what it was taught; it is no source of knowledge beyond that.

| | |
|---|---|
| base model | {base} |
| rows learned word for word | {num_learned} of {num_rows} |
| optimizer steps | {num_steps} |
| last training loss | {train_loss} |

## Settings

| option | value |
|---|---|
{settings}

## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

or `pangzhu chat --adapter {folder}`. An adapter changes what a model says; load only those whose maker you trust.
""",
}

"""What each option means: `option.NAME` for the field NAME of `config.py`; also the text of `--help`."""

MESSAGES = {
    "option.model_name_or_path": (
        "Base model: a local folder, a hub name, or packaged:NAME. Not given: Qwen/Qwen2.5-0.5B-Instruct, "
        "or the packaged Qwen where no hub answers."
    ),
    "option.hub": "Where hub names are fetched from; auto tries Hugging Face, then ModelScope.",
    "option.revision": "Branch, tag or commit of the base model on the hub. Not given: the hub's main branch.",
    "option.device": "Where to compute; auto is CUDA where there is one, else the CPU.",
    "option.precision": "Numbers of the frozen base model; auto measures whether bf16 is faster on this machine.",
    "option.dataset_path": "Data file: JSON, JSON lines or CSV. check, plan and train take the packaged example instructions where none is given, merge and export the data of the adapter where it is found.",
    "option.replay_path": "Rows that are trained beside the dataset so that other abilities stay; a row without an answer gets the base's own. They do not count as learned.",
    "option.validation_path": "Rows that are measured on the way and never trained; files as for --dataset_path. Not given: nothing is measured.",
    "option.eval_steps": "Optimizer steps between two measurements of the validation rows. Not given: one pass over the data.",
    "option.load_best_model_at_end": "Publish the weights with the lowest validation loss, not the last ones. Not given: yes, where there is a --validation_path.",
    "option.early_stopping_patience": "Stop after so many measurements without a lower validation loss; 0 = never.",
    "option.report_to": (
        "Where settings and figures are reported to: TensorBoard, SwanLab, Weights & Biases, or all that are installed; may be given "
        "several times. Not given: nowhere."
    ),
    "option.train_on": (
        "What is learned of each row: assistant = every answer, last = the last answer only, all = the whole text."
    ),
    "option.max_seq_length": "Longest row, in tokens. Not given: the longest row, within the model's context.",
    "option.overlong": "What happens to rows over --max_seq_length: fail = stop, drop = leave out, truncate = cut.",
    "option.system": "System text for conversations that have none of their own. Not given: as the model's template has it.",
    "option.skip_bad": "Leave broken rows out, up to 1% of each file, and keep them in a file, instead of stopping.",
    "option.allow_control_tokens": "Accept answers that contain the model's control tokens, as ordinary text.",
    "option.eval_path": "Evaluation file: rows that ask one of its questions are warned of. Not given: nothing is compared.",
    "option.html": "Write a page that shows every row with its tokens, in one file that ends in .html. Not given: no page.",
    "option.r": "Rank of the adapter's matrices: a greater one can learn more and costs more memory.",
    "option.lora_alpha": "Strength of the adapter; its output is scaled by lora_alpha / r.",
    "option.lora_dropout": "Share of the adapter's inputs dropped at random in training; 0 = none.",
    "option.target_modules": (
        "Layers that get an adapter: all-linear, or names separated by commas, for instance q_proj,v_proj."
    ),
    "option.use_rslora": "Scale by lora_alpha / √r (rsLoRA) instead of lora_alpha / r.",
    "option.use_dora": "Train a magnitude beside the direction (DoRA); slower.",
    "option.learning_rate": "Greatest learning rate.",
    "option.lr_scheduler_type": "How the learning rate falls after the warm-up.",
    "option.warmup_ratio": "Share of the steps in which the learning rate rises from 0; 0 = no warm-up.",
    "option.num_train_epochs": "Passes over the data; --max_steps wins over it.",
    "option.max_steps": "Optimizer steps. Not given: as --num_train_epochs has it.",
    "option.per_device_train_batch_size": "Rows in one batch of one device.",
    "option.gradient_accumulation_steps": "Batches in one optimizer step.",
    "option.token_budget": (
        "Most tokens computed at once; a larger batch is split with the same gradient. Not given: what the memory allows."
    ),
    "option.weight_decay": "Weight decay of AdamW; 0 = none.",
    "option.max_grad_norm": "Gradients are scaled down to this norm; 0 = never.",
    "option.replay_weight": "How much a token of the base's own words counts beside a learned token: more keeps more of the base and learns more slowly.",
    "option.seed": "Start of all random numbers: the same seed gives the same run.",
    "option.until_learned": "Stop as soon as every row is answered word for word.",
    "option.weaken_to_learned": "After training, scale the adapter down as far as no learned row is lost: less else is moved.",
    "option.fast": "on = the fast path wherever it applies; off = transformers and peft as they are, with the same loss.",
    "option.fast_without": "A technique of the fast path to leave out, to measure it or to find a fault; may be given several times.",
    "option.output_dir": "Folder for what is made: adapter, records, checkpoints. compare and eval write nothing without it; plan and doctor look only at its disk.",
    "option.measure": "Load the model and time some optimizer steps, which are thrown away; without it no minutes are told.",
    "option.resume": "auto = go on with an unfinished run of the same settings; never = begin anew.",
    "option.save_steps": "Optimizer steps between two checkpoints.",
    "option.logging_steps": "Optimizer steps between two lines of the log.",
    "option.max_new_tokens": "Most tokens in one answer.",
    "option.temperature": "Randomness of the answers; 0 = always the most probable token.",
    "option.top_p": "Draw only from the most probable tokens that together reach this probability; 1 = from all.",
    "option.adapter": "Adapter folder, DIR or NAME=DIR; may be given several times. Not given: the base model alone.",
    "option.prompt": "Ask this one question and leave. Not given: a conversation.",
    "option.engine": "Who computes the answers; auto = llama.cpp on a CPU where it is installed and has its files, else transformers.",
    "option.allow_base_mismatch": "Load an adapter although it was trained on another base model.",
    "option.max_questions": "Most questions taken from the file. Not given: all.",
    "option.fail_under": "Least share of right answers, from 0 to 1, as KIND=SHARE; a share alone is that of the taught questions. Where an adapter falls short, the exit code is 8. May be given several times.",
    "option.skip_drift": "Do not measure how far the adapter moves from the base on the general questions.",
    "option.offline": "Send no request: hubs are not asked whether they can be reached.",
    "option.verify": "Ask the adapter and the export the same questions, and publish only what answers alike.",
    "option.gate_questions": "Most of the adapter's own questions that are asked, taken evenly over its data; 20 general ones are asked too.",
    "option.format": "What is written: GGUF for llama.cpp and its kin, or GGUF with a Modelfile for Ollama.",
    "option.content": "merged = base and adapter in one file; lora = the adapter alone, for a GGUF of its base; base = the base alone.",
    "option.outtype": "Numbers of the weights in the GGUF file; all but f16 and q8_0 need llama.cpp's `llama-quantize` on the PATH.",
    "option.base_gguf": "GGUF file of the base that a LoRA file is meant for, and is asked on. Not given: that of the packaged model, else one that is written too.",
    "option.folders": "Adapter folders; may be several. Not given: those found below the current folder.",
}

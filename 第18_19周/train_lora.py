"""第 18、19 周：用 LoRA 教一个小模型回答法律问题。

直接运行，不需要参数：

    python 第18_19周/train_lora.py

想改什么，就改下面的常量；想教别的内容，就改同一文件夹里的 law_data.json，再运行一次。
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

# ---- 可以修改的设置 -------------------------------------------------------------------------------------------------
MODEL = None  # 基座模型；None 表示 Qwen/Qwen2.5-0.5B-Instruct，模型站连不上时改用打包的 Qwen
DATA = HERE / "law_data.json"  # 训练数据：instruction / input / output
REPLAY = HERE / "law_replay.json"  # 一起训练的日常问题，用来守住基座原有的本领；不想要就改成 None
OUTPUT_DIR = HERE / "lora_output"  # 适配器保存到哪里
MAX_LENGTH = 256  # 每行最多多少个词元；太短会停下来说明，绝不悄悄截断
LORA_R = 8  # LoRA 的秩：旁注本有多厚
LORA_ALPHA = 32  # 缩放系数：旁注说话的声音有多大
LORA_DROPOUT = 0.0
LEARNING_RATE = 6e-4
PER_DEVICE_TRAIN_BATCH_SIZE = 8  # 每个优化步看多少行
NUM_TRAIN_EPOCHS = 5.0  # 最多把数据看几遍
UNTIL_LEARNED = True  # 全部学会就提前停
WEAKEN_TO_LEARNED = True  # 训练完再减弱适配器，以不丢掉学会的行为限
SEED = 42


def main() -> None:
    """逐个阶段运行；每个阶段只是一次公开函数的调用。"""
    from pangzhu.config import TrainConfig
    from pangzhu.preparation import label_rows, prepare_training_base, read_dataset
    from pangzhu.train import train_rows

    # 1. 设置
    config = TrainConfig(
        model_name_or_path=MODEL,
        dataset_path=DATA,
        replay_path=REPLAY,
        output_dir=OUTPUT_DIR,
        max_seq_length=MAX_LENGTH,
        r=LORA_R,
        lora_alpha=LORA_ALPHA,
        lora_dropout=LORA_DROPOUT,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=PER_DEVICE_TRAIN_BATCH_SIZE,
        num_train_epochs=NUM_TRAIN_EPOCHS,
        until_learned=UNTIL_LEARNED,
        weaken_to_learned=WEAKEN_TO_LEARNED,
        seed=SEED,
    )

    # 2. 读数据：文件读不了，这里就会说明；有问题的行先记下来
    dataset = read_dataset(config)

    # 3. 找到基座模型和它的分词器
    base = prepare_training_base(config)

    # 4. 套上对话模板，标出哪些词元参与学习，并逐行证明标签没有标错
    rows = label_rows(dataset, config, base)

    # 5. 挂上 LoRA，训练，确认学会了多少行，证明适配器确实改变了模型，保存
    result = train_rows(config, base, rows)
    print(result.render())


if __name__ == "__main__":
    from pangzhu.cli import run_script

    sys.exit(run_script(main))

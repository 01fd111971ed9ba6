"""第 18、19 周：同样的问题，学之前和学之后各问一遍。

先运行 train_lora.py，再运行：

    python 第18_19周/inference_lora.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

# ---- 可以修改的设置 -------------------------------------------------------------------------------------------------
ADAPTER = HERE / "lora_output"  # train_lora.py 的 OUTPUT_DIR
MAX_NEW_TOKENS = 96  # 每个回答最多多少个词元
QUESTIONS = [
    "什么是合同法？",
    "试用期最长可以约定多久？",
    "网购的东西不喜欢，能退吗？",
    "离婚冷静期是多少天？",
    "请用一句话介绍你自己。",
]


def main() -> None:
    """逐个阶段运行；每个阶段只是一次公开函数的调用。"""
    from pangzhu.config import GenerationOptions, ModelOptions
    from pangzhu.data import Turn
    from pangzhu.engines.transformers import load_engine

    # 1. 基座模型（适配器记得自己是在哪个基座上训练的），旁边挂上适配器
    engine = load_engine(ModelOptions(), [f"law={ADAPTER}"])
    options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS)

    # 2. 每个问题：先让基座回答，再让适配器回答
    for question in QUESTIONS:
        print(f"\n问：{question}")
        for name, label in (("base", "学之前"), ("law", "学之后")):
            prompt = engine.prompt([Turn("user", question)], name)
            print(f"{label}：{engine.generate(prompt, name, options).text}")


if __name__ == "__main__":
    from pangzhu.cli import run_script

    sys.exit(run_script(main))

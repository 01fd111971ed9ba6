"""机器能做什么、不能做什么。"""

MESSAGES = {
    "error.machine.no_cuda": "没有 torch 可用的 CUDA 设备。",
    "error.machine.no_cuda.fix": "去掉 --device，用 CPU 计算；或安装与显卡驱动匹配的 CUDA 版 torch。",
}

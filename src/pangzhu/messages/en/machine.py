"""What the machine can and cannot do."""

MESSAGES = {
    "error.machine.no_cuda": "There is no CUDA device that torch can use.",
    "error.machine.no_cuda.fix": "Leave --device out to compute on the CPU, or install a torch build with CUDA for your driver.",
}

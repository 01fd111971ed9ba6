"""The fast path: the same loss and gradients as transformers and peft, in far less time on a CPU.

transformers keeps the model and peft the adapters; this package only computes with their weights. Each idea has a file:

- `stream`: rows laid out as one line of tokens, without those that no learned token depends on
- `prefix`: tokens that rows begin with alike, computed once
- `lora`: linear layers and their adapters in one step
- `attention`: row by row
- `layers`: norms and rotations in few passes; `mlp`: the gated MLP as one function
- `loss`: the head at learned tokens alone, its gradient made on the way
- `decoder`: a whole decoder of these parts; `support` says for which models; `path` puts both together
- `workspace`: memory that every micro-batch writes over; `memory`: a bound on what oneDNN compiles and keeps

Every technique can be left out alone (`Techniques`), to measure it and to find faults.
"""

"""llama.cpp as the judge of a conversion: its token ids, its greedy answers, and a GGUF file without quantisation."""

import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import gguf
import numpy as np
import torch
import xllamacpp

PLACES = 10  # prompts answered side by side: the weights are read once for all of them
TOKENS_A_PLACE = 512


class LlamaCpp:
    """A model in process. Its localhost port wants a random key."""

    def __init__(self, model: Path) -> None:
        self._key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx = PLACES * TOKENS_A_PLACE
        params.n_parallel = PLACES
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.verbosity = -1
        params.api_keys = [self._key]
        self._server = xllamacpp.Server(params)

    def token_ids(self, text: str) -> list[int]:
        """Ids of `text`, control tokens recognised, nothing added."""
        return list(self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"])

    def greedy(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """Each prompt's greedy continuation, up to and with an end token. (`logprobs` would join the tokens of one character.)"""
        answers = self._post(
            "/completion",
            {
                "prompt": [list(ids) for ids in prompts],
                "n_predict": num_tokens,
                "temperature": 0,
                "cache_prompt": False,
                "return_tokens": True,
            },
        )
        return [answer["tokens"] for answer in sorted(answers, key=lambda answer: answer["index"])]

    def _post(self, path: str, body: dict[str, object]) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = Request(self._server.listening_address + path, json.dumps(body).encode(), headers)
        with urlopen(request) as answer:
            return json.load(answer)


def write_plain_gguf(reader: gguf.GGUFReader, target: Path) -> None:
    """Write a GGUF file anew with every tensor dequantised, rounded to bfloat16 and stored as float32.

    Where the embedding is stored twice, the output's copy is kept as both: what the conversion promises. llama.cpp then
    computes with the very weights of the converted folder, in its own tensor order and with its own code.
    """
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if array else None)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "output.weight" in tensors:
        tensors["token_embd.weight"] = tensors.pop("output.weight")
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, [int(n) for n in tensor.shape[::-1]], np.dtype(np.float32), _float32_bytes(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(_bfloat16_values(gguf.dequantize(tensor.data, tensor.tensor_type)))
    writer.close()


def _float32_bytes(tensor: gguf.ReaderTensor) -> int:
    return 4 * math.prod(int(n) for n in tensor.shape)


def _bfloat16_values(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even; still float32."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).bfloat16().float().numpy()

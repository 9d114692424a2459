"""Decode speed of an OpenVINO model whose K and V state is set by hand: model folder, batch, context, steps, threads."""

import json
import statistics
import sys
import time

import numpy as np
import openvino as ov

folder, batch, context, steps, threads = sys.argv[1], *map(int, sys.argv[2:6])
settings = {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
model = ov.Core().compile_model(f"{folder}/openvino_model.xml", "CPU", settings)
request = model.create_infer_request()
names = {name for item in model.inputs for name in item.get_names()}


def step(past):
    given = {"input_ids": np.full((batch, 1), 5, np.int64), "attention_mask": np.ones((batch, past + 1), np.int64),
             "position_ids": np.full((batch, 1), past, np.int64), "beam_idx": np.arange(batch, dtype=np.int32)}
    request.infer({name: value for name, value in given.items() if name in names})


# One step gives the states their shapes; then they are set to the context's length.
step(0)
rng = np.random.default_rng(1)
for state in request.query_state():
    shape = list(state.state.shape)
    shape[0], shape[2] = batch, context
    tensor = ov.Tensor(state.state.element_type, shape)
    if state.state.element_type == ov.Type.bf16:
        tensor.data[:] = (rng.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16).view(tensor.data.dtype)
    else:
        tensor.data[:] = rng.standard_normal(shape, dtype=np.float32)
    state.state = tensor
step(context)
times = []
for index in range(steps):
    start = time.perf_counter()
    step(context + 1 + index)
    times.append(time.perf_counter() - start)
print(json.dumps({"decode": batch / statistics.median(times)}))

"""Timing of a call on a GPU as polar's own timer does it, or on the CPU for dry runs, and the lines that results are."""

import json
import statistics
import time

COLD_BYTES = 1 << 30


def on_gpu(torch):
    return torch.cuda.is_available()


def seconds(torch, inner, body, graph=True):
    """Median seconds of one of `inner` calls of `body(index)`, in a CUDA graph or, with graph=False, issued one by one."""
    if not on_gpu(torch):
        body(0)
        start = time.perf_counter()
        body(0)
        return time.perf_counter() - start
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            body(0)
    stream.synchronize()

    def issue():
        for index in range(inner):
            body(index)

    run = issue
    if graph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=stream):
            issue()
        run = recorded.replay
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / inner)
    return statistics.median(times[1:])


class Results:
    """Writes lines of JSON like those of `polar bench gpu`."""

    def __init__(self, torch, path, weights):
        self.device = torch.cuda.get_device_name() if on_gpu(torch) else "cpu"
        self.path = path
        self.weights = weights

    def write(self, result):
        line = json.dumps({"device": self.device, "weights": self.weights, "result": result})
        print(line, flush=True)
        if self.path:
            with open(self.path, "a") as file:
                file.write(line + "\n")

    def time(self, section, shape, batch, variant, time, size, density=1.0):
        self.write({
            "section": section, "shape": shape, "batch": batch, "density": density, "variant": variant, "seconds": time,
            "bytes": size, "bandwidth": size / time / 1e9,
        })

    def skip(self, what, reason):
        self.write({"skipped": what, "reason": reason})

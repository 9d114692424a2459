"""Compiles the CUDA kernels with NVRTC and checks the machine code. Run it through check_nvrtc.sh, which provides NVRTC.

check_nvrtc.py [--verbose] [--arch sm_90a,...]
"""

import argparse
import ctypes
import glob
import multiprocessing
import os
import re
import subprocess
import sys
import sysconfig
import tempfile

KERNELS = "Sources/CPolarCUDA/kernels"
HEADERS = ["Sources/CPolarCUDA/include/polar_cuda_" + part + ".h" for part in ("kernels", "attention", "training")]
ARCHITECTURES = ["sm_80", "sm_90a", "sm_100", "sm_120"]
HEAD_DIMS = [64, 80, 96, 128, 256]
# As Sources/PolarCUDA/NVRTC.swift compiles them.
OPTIONS = ["--std=c++17", "-default-device", "-lineinfo"]

# Registers of a thread. 65536 of them are a multiprocessor's: the comment says what a budget leaves room for.
BUDGETS = [
    # (kernel, head dims up to, registers)
    (r"polar_attention_decode", 64, 144),  # 3 blocks of 128 threads
    (r"polar_attention_decode", 128, 200),  # 2: as many as shared memory holds
    (r"polar_attention_decode", 256, 240),  # 4 blocks of 64 threads
    (r"polar_attention_prefill", 64, 168),  # 3 blocks of 128 threads
    (r"polar_attention_prefill", 256, 255),  # 2
    (r"polar_linear_(8|16)|polar_selective_\w+_(8|16)|polar_route_neurons_(8|16)", None, 96),  # 5: shared memory holds no more
    (r"polar_linear_(32|64)|polar_selective_\w+_(32|64)|polar_route_neurons_(32|64)", None, 128),  # 4
    (r"polar_route_heads", None, 128),  # fewer blocks than multiprocessors
    (r"polar_attention_plan|polar_list_\w+|polar_argmax|polar_sample", None, 64),  # 1 block of 1024 threads
    (r"polar_ridge_update", None, 80),  # 3 blocks of 256 threads: 16 sums in double precision
    (r"polar_(turns|store_rows|pack_active|gather_scaled|transpose\w*|adamw)", None, 32),  # 8: they wait for memory
    (r"polar_(\w+_slopes|add_bias|mask_inactive|ridge_begin)", None, 32),
    (r".*", None, 64),
]

TENSOR = r"HMMA\.16816\.F32"
COPY = r"LDGSTS\.E\.BYPASS\.128"
LOAD = r"LDSM\.16\.M88\.4"
LOAD_TRANSPOSED = r"LDSM\.16\.MT88\.4"
# Instructions that must be there: without them the kernel is right and slow.
WANTED = [
    (r"polar_attention_(decode|prefill)", [TENSOR, COPY, LOAD, LOAD_TRANSPOSED]),
    (r"polar_linear_\d+|polar_selective_up_\w+|polar_route_\w+", [TENSOR, COPY, LOAD]),
    (r"polar_selective_down_\d+", [TENSOR, COPY, LOAD_TRANSPOSED]),
]


def library_folder():
    folder = os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "cu13")
    if not os.path.isdir(folder):
        sys.exit(f"check_nvrtc: no NVRTC under {folder}; run check_nvrtc.sh")
    return folder


def load_nvrtc():
    folder = os.path.join(library_folder(), "lib")
    # NVRTC opens its builtins by bare name: load them by path before it looks.
    ctypes.CDLL(glob.glob(os.path.join(folder, "libnvrtc-builtins.so*"))[0], mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(glob.glob(os.path.join(folder, "libnvrtc.so.*"))[0])


def read(path):
    with open(path, "rb") as file:
        return file.read()


def kernel_list():
    """Entry points by source file, from the headers' lists."""
    files = {}
    for header in HEADERS:
        for file, kernel in re.findall(r"X\((\w+), (polar_\w+), \w+\)", read(header).decode()):
            files.setdefault(file, []).append(kernel)
    return files


def compile_unit(unit):
    """Returns (cubin, log), or (None, log) when it does not compile."""
    file, arch, defines = unit
    nvrtc = load_nvrtc()
    headers = sorted(glob.glob(KERNELS + "/*.cuh")) + HEADERS
    names = (ctypes.c_char_p * len(headers))(*[os.path.basename(path).encode() for path in headers])
    texts = (ctypes.c_char_p * len(headers))(*[read(path) for path in headers])
    program = ctypes.c_void_p()
    source = read(f"{KERNELS}/{file}.cu")
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, f"{file}.cu".encode(), len(headers), texts, names)
    options = OPTIONS + ["-D" + define for define in defines] + [f"-arch={arch}", "--ptxas-options=-v"]
    result = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    )

    def get(size_of, fetch):
        size = ctypes.c_size_t()
        size_of(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(1, size.value))
        fetch(program, text)
        return text.raw[: size.value]

    log = get(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).replace(b"\0", b"").decode(errors="replace")
    if result != 0:
        return None, log
    return get(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), log


def disassemble(cubin):
    """Machine code by kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = os.path.join(library_folder(), "bin", "nvdisasm")
        text = subprocess.run([tool, "-c", file.name], check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^\.text\.(\w+):", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def budget(kernel, head_dim):
    for pattern, most, registers in BUDGETS:
        if re.fullmatch(pattern, kernel) and (most is None or (head_dim or 0) <= most):
            return registers
    raise AssertionError(kernel)


def check_unit(unit):
    """Returns (lines for --verbose, faults, kernels checked)."""
    file, arch, defines = unit
    head_dim = next((int(d.split("=")[1]) for d in defines if d.startswith("POLAR_HEAD_DIM=")), None)
    where = f"{file}.cu {' '.join(defines)} {arch}"
    cubin, log = compile_unit(unit)
    if cubin is None:
        return [], [f"{where}: does not compile\n{log}"], 0
    code = disassemble(cubin)
    usage = {}
    for part in log.split("Compiling entry function '")[1:]:
        kernel = part.split("'")[0]
        numbers = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", part, re.DOTALL
        )
        usage[kernel] = [int(number) for number in numbers.groups()]
    lines, faults = [], []
    expected = kernel_list()[file]
    for kernel in expected:
        if kernel not in usage or kernel not in code:
            faults.append(f"{where}: {kernel} is not in the result")
            continue
        stack, stores, loads, registers = usage[kernel]
        lines.append(f"{where}: {kernel}: {registers} registers of {budget(kernel, head_dim)}")
        if stores or loads:
            faults.append(f"{where}: {kernel} spills {stores} bytes")
        if stack or re.search(r"\b(LDL|STL)\b", code[kernel]):
            faults.append(f"{where}: {kernel} uses local memory ({stack} bytes of stack)")
        if registers > budget(kernel, head_dim):
            faults.append(f"{where}: {kernel} uses {registers} registers, {budget(kernel, head_dim)} are allowed")
        for pattern, instructions in WANTED:
            if not re.fullmatch(pattern, kernel):
                continue
            for instruction in instructions:
                if not re.search(instruction, code[kernel]):
                    faults.append(f"{where}: {kernel} has no {instruction}")
    return lines, faults, len(expected)


def units(architectures):
    for arch in architectures:
        for file in kernel_list():
            # Element types differ in two instructions: f16 is compiled for one architecture and head dim.
            for f16 in (0, 1) if arch == "sm_90a" else (0,):
                dims = [None] if file != "attention" else HEAD_DIMS if f16 == 0 else [128]
                for dim in dims:
                    yield file, arch, [f"POLAR_ELEMENT_F16={f16}"] + ([f"POLAR_HEAD_DIM={dim}"] if dim else [])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--verbose", action="store_true", help="registers of every kernel")
    arguments.add_argument("--arch", default=",".join(ARCHITECTURES))
    options = arguments.parse_args()
    faults, kernels, count = [], 0, 0
    # A fresh process for each few units: NVRTC keeps memory.
    with multiprocessing.Pool(min(4, os.cpu_count() or 1), maxtasksperchild=8) as pool:
        for lines, found, checked in pool.imap(check_unit, units(options.arch.split(",")), chunksize=1):
            if options.verbose:
                print("\n".join(lines), flush=True)
            faults += found
            kernels += checked
            count += 1
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} faults in the CUDA kernels")
    print(f"{kernels} CUDA kernels in {count} modules for {options.arch}: no spill, no local memory, within budget")


if __name__ == "__main__":
    main()

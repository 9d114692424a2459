"""What Polar Sparsity (arXiv 2505.14884) reports, for the tables of report.py. Figures were read off the paper's bar and line charts, to about
1 to 2 %; speed-ups that its text states are as there. DGX A100-80GB where nothing else is said, fp16."""

# Fig 1a: milliseconds of a dense decode step of OPT-66B, context 1920, by batch: total, then the parts in percent.
FIG_1A_PARTS = ["others", "q, k, v", "attention", "out-projection", "MLP"]
FIG_1A = {
    1: (85, [3.4, 22.9, 6.3, 8.2, 59.2]), 2: (88, [3.1, 22.4, 8.0, 8.0, 58.5]), 4: (94, [2.9, 20.9, 14.4, 7.5, 54.3]),
    8: (104, [2.6, 19.1, 22.0, 6.8, 49.4]), 16: (128, [2.2, 15.9, 35.6, 5.6, 40.7]), 32: (170, [1.6, 11.7, 51.4, 4.2, 31.2]),
    64: (258, [1.1, 7.8, 67.1, 2.8, 21.3]),
}

# Fig 4 and 11: milliseconds of the kernels at OPT-66B's sizes, batch 64, context 1920, at densities 0.1 to 1; the dense one last.
DENSITIES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
FIG_4 = {
    "selective GEMM (up-projection)": {
        "A100": ([.077, .097, .133, .197, .223, .259, .299, .368, .390, .419], .425),
        "H100": ([.047, .065, .081, .100, .119, .145, .169, .192, .208, .250], .245),
    },
    "selective attention": {
        "A100": ([.58, .88, 1.18, 1.48, 1.79, 2.08, 2.38, 2.68, 2.98, 3.30], 3.27),
        "H100": ([.26, .54, .69, .92, 1.11, 1.31, 1.57, 1.71, 1.95, 2.15], 2.12),
    },
}

# Fig 10: milliseconds of the routers at OPT-66B's sizes, batch 64: of neurons, of heads.
FIG_10 = (.19, .048)

# Figs 6, 7 and 12: tokens per second by batch: dense, MLP sparsity alone ("DejaVu"; None where there is none), Polar Sparsity.
THROUGHPUT = {
    "opt-6.7b": ("6a", 1920, {
        1: (89, 94, 98), 2: (167, 182, 192), 4: (290, 325, 364), 8: (497, 581, 664), 16: (630, 684, 1029), 32: (915, 965, 1314),
        64: (1166, 1191, 1836), 128: (1260, 1260, 2170), 256: (1329, 1329, 2377), 512: (1353, 1368, 2470),
    }),
    "opt-66b": ("6b", 1920, {
        1: (13, 19, 20), 2: (23, 37, 39), 4: (42, 66, 73), 8: (71, 99, 129), 16: (119, 156, 237), 32: (170, 201, 361),
        48: (204, 228, 429), 64: (222, 243, 485),
    }),
    "opt-30b": ("12a", 1920, {
        1: (25, 38, 38), 2: (48, 68, 72), 4: (86, 120, 136), 8: (128, 168, 243), 16: (209, 254, 410), 32: (306, 343, 581),
        64: (391, 409, 728),
    }),
    "llama-2-7b": ("7a", 3968, {
        1: (84, None, 85), 2: (150, None, 159), 4: (238, None, 272), 8: (373, None, 490), 16: (384, None, 678),
        32: (521, None, 755), 64: (630, None, 1030), 128: (655, None, 1208), 256: (679, None, 1255), 320: (681, None, 1258),
    }),
    "llama-2-13b": ("12b", 3968, {
        1: (47, None, 49), 2: (85, None, 90), 4: (127, None, 156), 8: (200, None, 245), 16: (260, None, 414), 32: (350, None, 513),
        64: (389, None, 680), 128: (405, None, 737), 192: (413, None, 765),
    }),
    "llama-3.1-70b": ("7b", 8192, {
        1: (9.8, None, 10.5), 2: (17, None, 19), 4: (27, None, 34), 8: (38, None, 54), 16: (59, None, 76), 32: (81, None, 116),
        64: (92, None, 138), 128: (100, None, 150), 192: (101, None, 152),
    }),
}

# Figs 14 and 15: milliseconds of a step at batch 16 by context: dense, MLP alone, Polar Sparsity.
LATENCY = {
    "opt-6.7b": ("14a", {
        128: (11.1, 10.3, 9.9), 256: (12.2, 11.1, 10.3), 512: (14.3, 12.4, 11.0), 1024: (18.4, 16.4, 12.8),
        1536: (22.5, 20.5, 14.5), 1920: (25.6, 23.6, 15.6),
    }),
    "opt-66b": ("14b", {
        128: (86.2, 54.1, 52.1), 256: (90.0, 57.2, 53.4), 512: (96.9, 64.1, 55.5), 1024: (110.7, 77.9, 59.7),
        1536: (124.5, 91.7, 64.1), 1920: (134.8, 102.1, 66.9),
    }),
    "llama-2-7b": ("15a", {
        128: (11.0, None, 10.8), 256: (11.8, None, 11.2), 512: (13.9, None, 12.2), 1024: (18.0, None, 13.8),
        2048: (26.2, None, 17.2), 3072: (34.5, None, 20.6), 3968: (41.7, None, 23.6),
    }),
    "llama-3.1-70b": ("15b", {
        256: (96.6, None, 95.4), 512: (101, None, 98.9), 1024: (112.6, None, 106.9), 2048: (134.5, None, 120.7),
        4096: (180.5, None, 151.7), 8192: (270, None, 211.5), 16384: (449, None, 333),
    }),
}

# The largest speed-ups of whole steps that the figures show.
BEST = {"opt-6.7b": 1.83, "opt-30b": 1.97, "opt-66b": 2.18, "llama-2-7b": 1.85, "llama-2-13b": 1.85, "llama-3.1-70b": 1.51}

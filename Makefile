# Shortcuts; every command is an ordinary one that also works by itself.
POLAR = .build/release/polar
MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
PYTHON ?= python3

DEMO = Sources/Polar/Resources/demo

.PHONY: check build bench fixtures format demo demo-profile

build:
	swift build -c release --product polar

# What CI runs.
check:
	bash .ci/run

format:
	swift format --in-place --recursive Sources Tests Package.swift

demo: build
	$(POLAR) demo

# The embedded model's sparsity profile, from TEXT: books that neither its training nor its prompts used.
demo-profile: build
	$(POLAR) calibrate $(DEMO) --text $(TEXT) --held-out $(DEMO)/prompts.txt --plain-routers --tokens 110000 \
	  -o .build/opt-books.profile.safetensors
	cp .build/opt-books.profile.safetensors $(DEMO)/

# Decode grid of a real model, dense beside sparse; JSON lines in Benchmarks/.
bench: build
	$(POLAR) bench attention
	$(POLAR) bench decode $(MODEL) --batch 1,8,32 --context 128,1024 --density 0.5 --json Benchmarks/decode.jsonl

# Regenerates golden fixtures from the reference libraries (see Tools/reference/README.md).
fixtures:
	$(PYTHON) Tools/reference/make_model_goldens.py
	$(PYTHON) Tools/reference/make_tokenizer_fixtures.py
	$(PYTHON) Tools/reference/make_gguf_quants.py

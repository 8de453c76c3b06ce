#!/usr/bin/env bash
# Run by jetson-containers after the build: the program starts, and llama.cpp can use a GPU.
set -euo pipefail
edge-agent --version
python3 -c 'import llama_cpp; assert llama_cpp.llama_supports_gpu_offload(), "built for the CPU"'

# SPDX-License-Identifier: Apache-2.0
"""Glue for servers, a file each: vLLM, SGLang and OpenVINO in Python; llama.cpp (mtmd.c) and
TensorRT-Edge-LLM (edge_llm.cpp) as sources to build beside them. Each says in its header what it
was run against. Importing this imports nothing."""

# SPDX-License-Identifier: Apache-2.0
"""What ../vllm.py registers: models over vLLM's own classes."""

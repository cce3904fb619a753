# SPDX-License-Identifier: Apache-2.0
"""The encoder of bench/features as numpy, so that it can be stopped behind any layer and go on with fewer rows.

x: [B, T, D] float32, row 0 of each image CLS. A layer (count from 0, as the graph's names do):

    x += s1 * (softmax(q k^T / 8 + bias) v W + b)     q, k, v of LayerNorm(x), 6 heads of 64
    x += s2 * (gelu(LayerNorm(x) W + b) W + b)        gelu with erf, to about 1e-7

bias [B, T]: what is added to the logits of each key: ln(size) for merged rows, None for none.
The weights are the ONNX file's; `check` compares all layers with onnxruntime on the same images.
"""
import numpy as np
import onnx
import onnxruntime

import make_features

LAYERS, HEADS, PATCH, GRID = 12, 6, 14, 16
EMBEDDINGS = "/backbone/embeddings/Add_output_0"
TOLERANCE = 1e-3  # of features up to about 10; measured: 1e-4


def erf(x):
    """Abramowitz and Stegun 7.1.26, absolute error at most 1.5e-7."""
    f = np.float32
    t = f(1) / (f(1) + f(0.3275911) * np.abs(x))
    p = t * (f(0.254829592) + t * (f(-0.284496736) + t * (f(1.421413741) + t * (
        f(-1.453152027) + t * f(1.061405429)))))
    return np.copysign(f(1) - p * np.exp(-x * x), x)


def normed(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)) * weight + bias


class Layer:
    """w: q, k, v, out, fc1, fc2 with their biases b, norms n1 and n2 (weight, bias), scales s1, s2."""

    def __init__(self, w, heads=HEADS):
        self.w, self.heads = w, heads
        self.qkv = np.concatenate([w["q"], w["k"], w["v"]], 1)
        self.qkv_b = np.concatenate([w["q_b"], w["k_b"], w["v_b"]])

    def __call__(self, x, bias=None):
        w = self.w
        b, t, d = x.shape
        head = d // self.heads
        qkv = normed(x, *w["n1"]) @ self.qkv + self.qkv_b
        q, k, v = qkv.reshape(b, t, 3, self.heads, head).transpose(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(0, 1, 3, 2)) * np.float32(head ** -0.5)
        if bias is not None:
            logits += bias[:, None, None, :]
        logits = np.exp(logits - logits.max(-1, keepdims=True))
        seen = (logits / logits.sum(-1, keepdims=True)) @ v
        x = x + (seen.transpose(0, 2, 1, 3).reshape(b, t, d) @ w["out"] + w["out_b"]) * w["s1"]
        y = normed(x, *w["n2"]) @ w["fc1"] + w["fc1_b"]
        y *= np.float32(0.5) * (1 + erf(y * np.float32(0.5 ** 0.5)))
        return x + (y @ w["fc2"] + w["fc2_b"]) * w["s2"]


class Encoder:
    def __init__(self, layers, norm):
        self.layers, self.norm = layers, norm

    def states(self, x):
        """Hidden states behind every layer, from the embeddings: [layers][B, T, D]."""
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found

    def rest(self, x, after, bias=None):
        """The final features of rows as they are behind layer `after`; images in parts that stay in a cache."""
        found = []
        for at in range(0, len(x), 4):
            part = x[at:at + 4]
            for layer in self.layers[after + 1:]:
                part = layer(part, None if bias is None else bias[at:at + 4])
            found.append(normed(part, *self.norm))
        return np.concatenate(found)


def load():
    """(encoder, model): the model has the embeddings and the final features as outputs."""
    model = onnx.load_from_string(make_features.packaged(*make_features.ENCODER))
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    products = {node.output[0]: arrays[node.input[1]] for node in model.graph.node
                if node.op_type == "MatMul" and node.input[1] in arrays}
    layers = []
    for number in range(LAYERS):
        name, node = f"backbone.encoder.layer.{number}.", f"/backbone/encoder/layer.{number}/"
        w = {"s1": arrays[name + "layer_scale1.lambda1"], "s2": arrays[name + "layer_scale2.lambda1"]}
        for short, part in (("n1", "norm1"), ("n2", "norm2")):
            w[short] = arrays[f"{name}{part}.weight"], arrays[f"{name}{part}.bias"]
        for short, part in (("q", "attention.attention.query"), ("k", "attention.attention.key"),
                            ("v", "attention.attention.value"), ("out", "attention.output.dense"),
                            ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            w[short] = products[f"{node}{part.replace('.', '/')}/MatMul_output_0"]
            w[short + "_b"] = arrays[f"{name}{part}.bias"]
        layers.append(Layer(w))
    for output in (EMBEDDINGS, make_features.NODE):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    norm = arrays["backbone.layernorm.weight"], arrays["backbone.layernorm.bias"]
    return Encoder(layers, norm), model


def run(encoder, model, pixels, threads):
    """(states behind each layer, final features), after comparing the latter with onnxruntime's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    embedded, wanted = session.run([EMBEDDINGS, make_features.NODE], {"input_image": pixels})
    states = encoder.states(embedded)
    features = normed(states[-1], *encoder.norm)
    off = float(np.abs(features - wanted).max())
    if not off <= TOLERANCE:
        raise SystemExit(f"encoder.py: differs from onnxruntime by {off}, more than {TOLERANCE}")
    return states, features, off

# SPDX-License-Identifier: Apache-2.0
"""The encoder of bench/features: the ONNX file's weights in transformer.py's layers, compared with
onnxruntime."""
import numpy as np
import onnx
import onnxruntime

import make_features
from transformer import Encoder, Layer, normed

LAYERS, HEADS, GRID = 12, 6, 16
EMBEDDINGS = "/backbone/embeddings/Add_output_0"
TOLERANCE = 1e-3  # of features up to about 10; measured: 1e-4


def load():
    """(encoder, model): the model has the embeddings and the final features as outputs."""
    model = onnx.load_from_string(make_features.packaged(*make_features.ENCODER))
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    products = {node.output[0]: arrays[node.input[1]] for node in model.graph.node
                if node.op_type == "MatMul" and node.input[1] in arrays}
    layers = []
    for number in range(LAYERS):
        name, node = f"backbone.encoder.layer.{number}.", f"/backbone/encoder/layer.{number}/"
        w = {f"s{i}": arrays[f"{name}layer_scale{i}.lambda1"] for i in (1, 2)}
        for short, part in (("n1", "norm1"), ("n2", "norm2")):
            w[short] = arrays[f"{name}{part}.weight"], arrays[f"{name}{part}.bias"]
        for short, part in (("q", "attention.attention.query"), ("k", "attention.attention.key"),
                            ("v", "attention.attention.value"), ("out", "attention.output.dense"),
                            ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            w[short] = products[f"{node}{part.replace('.', '/')}/MatMul_output_0"]
            w[short + "_b"] = arrays[f"{name}{part}.bias"]
        layers.append(Layer(w, HEADS))
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

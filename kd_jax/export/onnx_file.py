"""ONNX, written by jax2onnx, run and made int8 by onnxruntime."""

import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from kd_jax.export.formats import INPUT, OUTPUTS, Run, Served, as_strings, quiet

# What static int8 quantises; probabilities would have no third digit.
_LAYERS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Max", "MaxPool",
           "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat", "Reshape",
           "Transpose", "Flatten"]
_OPSET = 21  # The newest that the runtimes of phones and browsers of 2025 read.


def write(served: Served, file: pathlib.Path) -> None:
  """Writes the net with a dynamic batch, and its card as metadata, in JSON."""
  import onnx  # pylint: disable=g-import-not-at-top
  with quiet(), jax.numpy_rank_promotion("allow"):  # Its convolutions need it.
    import jax2onnx  # pylint: disable=g-import-not-at-top
    model = jax2onnx.to_onnx(
        served.function, [jax.ShapeDtypeStruct(("B", *served.shape), served.dtype)],
        model_name="net", opset=_OPSET, input_names=[INPUT],
        output_names=list(OUTPUTS))
  # Some shapes of inner tensors are those before a transpose, and refused by
  # strict readers; none is needed.
  del model.graph.value_info[:]
  _drop_scalar_biases(model.graph)
  onnx.helper.set_model_props(model, as_strings(served.card))
  onnx.checker.check_model(model, full_check=True)
  onnx.save(model, str(file))


def _drop_scalar_biases(graph: Any) -> None:
  """A product has a bias of each output, or none: static int8 knows no other.

  jax2onnx gives one without a bias the number 0.
  """
  from onnx import numpy_helper  # pylint: disable=g-import-not-at-top
  zeros = {each.name for each in graph.initializer
           if not each.dims and not numpy_helper.to_array(each)}
  for node in graph.node:
    if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in zeros:
      del node.input[2]


def load(file: pathlib.Path) -> Run:
  """The file in onnxruntime on one thread."""
  import onnxruntime  # pylint: disable=g-import-not-at-top
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(
      str(file), options, providers=["CPUExecutionProvider"])
  return lambda inputs: tuple(session.run(list(OUTPUTS), {INPUT: inputs}))


def quantise(
    file: pathlib.Path, to: pathlib.Path, kind: str, calibration: np.ndarray
) -> None:
  """Writes the int8 form of a file.

  Args:
    file: The float file.
    to: Where it goes.
    kind: "dynamic": weights are int8, the range of inputs of a layer is measured at
      every call; or "static": it is that of the calibration inputs.
    calibration: Training inputs `[N, *shape]`.
  """
  from onnxruntime import quantization  # pylint: disable=g-import-not-at-top
  from onnxruntime.quantization import shape_inference  # pylint: disable=g-import-not-at-top
  with tempfile.TemporaryDirectory() as folder, quiet():
    ready = str(pathlib.Path(folder) / "ready.onnx")
    shape_inference.quant_pre_process(str(file), ready)
    signed = quantization.QuantType.QInt8
    if kind == "dynamic":
      quantization.quantize_dynamic(ready, str(to), weight_type=signed)
    else:
      quantization.quantize_static(
          ready, str(to), _Reader(calibration),
          quant_format=quantization.QuantFormat.QDQ, per_channel=True,
          activation_type=signed, weight_type=signed,
          op_types_to_quantize=_LAYERS)


class _Reader:
  """Calibration inputs one by one, as onnxruntime asks for them."""

  def __init__(self, inputs: np.ndarray):
    self._left = iter(inputs)

  def get_next(self) -> dict[str, np.ndarray] | None:
    one = next(self._left, None)
    return None if one is None else {INPUT: one[None]}

"""LiteRT (.tflite) without TensorFlow: its packages convert, quantise and run.

A file takes one input at a time: with a dynamic batch the converter neither folds
BatchNorm nor fuses layers (`benchmarks/exports.py --dynamic-batch` times it). The
converter's functions are not documented: its version is pinned, and tested.
"""

import json
import pathlib
import struct
from typing import Any
import zipfile

import jax
import numpy as np

from kd_jax.export.formats import INPUT, OUTPUTS, Run, Served, quiet

_SIGNATURE = "serving_default"
# The place of the field `tensor_index` in a TensorMap's table of offsets.
_TENSOR_INDEX = 6


def write(served: Served, file: pathlib.Path) -> None:
  """Writes the net for a batch of 1.

  The card and a line for each class stand in a zip at the file's end, where readers
  of TensorFlow Lite's metadata look for `labels.txt`.
  """
  with quiet():
    file.write_bytes(converted(served, 1))
  _append_card(file, served.card)


def converted(served: Served, batch: Any) -> bytes:
  """A net as a program of LiteRT for a batch of a number, or of a symbol."""
  program = jax.export.export(jax.jit(served.function), platforms=("cpu",))(
      jax.ShapeDtypeStruct((batch, *served.shape), served.dtype)).mlir_module()
  # pylint: disable=g-import-not-at-top
  from litert_converter import converter_api_ext as converter
  from litert_converter.mlir import ir, passmanager
  # pylint: enable=g-import-not-at-top
  context = ir.Context()
  converter.prepare_mlir_context(context)
  with context, ir.Location.unknown():
    module = ir.Module.parse(program)
    converter.set_signature(
        module.operation, signature_name=_SIGNATURE, input_names=[INPUT],
        output_names=list(OUTPUTS))
    config = converter.ConvertToTFLConfig()
    config.model_origin_framework = "JAX"
    converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
    return converter.export_flatbuffer_to_bytes(module.operation)


def _append_card(file: pathlib.Path, card: dict) -> None:
  with zipfile.ZipFile(file, "a") as archive:
    archive.writestr("labels.txt", "\n".join(card["classes"]) + "\n")
    archive.writestr("card.json", json.dumps(card, indent=2))


def load(file: pathlib.Path) -> Run:
  """The file in LiteRT's interpreter on one thread."""
  with quiet():
    from ai_edge_litert import interpreter  # pylint: disable=g-import-not-at-top
    opened = interpreter.Interpreter(str(file), num_threads=1)
    opened.allocate_tensors()
  run = opened.get_signature_runner()

  def outputs(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = [run(**{INPUT: one[None]}) for one in inputs]
    logits, probabilities = (
        np.concatenate([each[name] for each in found]) for name in OUTPUTS)
    return logits, probabilities

  return outputs


def quantise(
    file: pathlib.Path, to: pathlib.Path, kind: str, calibration: np.ndarray
) -> None:
  """Writes the int8 form of a file; arguments as of `onnx_file.quantise`."""
  with quiet():
    _quantise(file, to, kind, calibration)
  with zipfile.ZipFile(file) as archive:
    _append_card(to, json.loads(archive.read("card.json")))


def _quantise(file, to, kind, calibration) -> None:
  # pylint: disable=g-import-not-at-top
  from ai_edge_quantizer import (
    calibrator,
    qtyping,
    quantizer,
    recipe,
    recipe_manager,
  )
  from ai_edge_quantizer.utils import qsv_utils
  # pylint: enable=g-import-not-at-top
  quantiser = quantizer.Quantizer(str(file))
  result = None
  if kind != "static":
    quantiser.load_quantization_recipe(
        recipe.dynamic_wi8_afp32() if kind == "dynamic"
        else recipe.dynamic_wi4_afp32())
  else:
    quantiser.load_quantization_recipe(recipe.static_wi8_ai8())
    # What goes in and out stays as in the float file.
    for place in ("INPUT", "OUTPUT", "SOFTMAX"):
      quantiser.update_quantization_recipe(
          ".*", qtyping.TFLOperationName[place], algorithm_key="no_quantize")
    # Its own way takes a moving average of the largest values, above which logits
    # would be cut off.
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(quantiser.get_quantization_recipe())
    observer = calibrator.Calibrator(
        str(file), mode=calibrator.CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS,
        qsv_update_func=qsv_utils.min_max_update)
    observer.calibrate(
        {_SIGNATURE: [{INPUT: one[None]} for one in calibration]}, manager)
    result = observer.get_model_qsvs()
  to.write_bytes(_named(bytes(quantiser.quantize(result).quantized_model)))


def _named(model: bytes) -> bytes:
  """A model whose signature names the outputs of its graph.

  ai-edge-quantizer 0.10 leaves there the outputs before it made them float again.
  The numbers are changed where they stand: weights may lie behind the tables, and
  would be lost if these were written anew.
  """
  # pylint: disable-next=g-import-not-at-top
  from ai_edge_litert import schema_py_generated as schema
  data = bytearray(model)
  root = schema.Model.GetRootAs(data)
  signature, graph = root.SignatureDefs(0), root.Subgraphs(0)
  for place in range(signature.OutputsLength()):
    table = signature.Outputs(place)._tab  # pylint: disable=protected-access
    struct.pack_into("<I", data, table.Pos + table.Offset(_TENSOR_INDEX),
                     graph.Outputs(place))
  return bytes(data)

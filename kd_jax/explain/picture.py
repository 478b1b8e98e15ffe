"""From a run's folder to the picture of an explanation."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import data as data_lib
from kd_jax.core import files, randomness
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.explain import linear, page
from kd_jax.report import canvas
from kd_jax.runs import trained
from kd_jax.training import parameters, vae

# b, T, neighbours to learn from and to judge by, and the fit: as in
# experiments/deepvid19, whose README tells how faithful such students are.
_REACH, _TEMPERATURE, _LEARNT, _JUDGED = 1.0, 4.0, 400, 100
_L2, _STEPS, _SHOWN = 1e-2, 150, 8


def write(
    workdir: pathlib.Path, numbers: Sequence[int], *, net: str | None = None,
    data: pathlib.Path | None = None, epochs: int = 8,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
  """Explains test images; leaves `WORKDIR/explained_NET_ID.png` of each.

  Args:
    workdir: Of a finished run.
    numbers: Which test images.
    net: One of `workdir/parameters`; the last of the recipe by default.
    data: The folder of its data set, where that has moved.
    epochs: Of the VAE.
    say: Tells the user, also what came out for each image.

  Returns:
    The picture of one image; of several `explained_NET.html`, a page of all.

  Raises:
    UserError: If there is no such net or image, or inputs are no uint8 images.
  """
  chosen = trained.load(workdir, net, data=data)
  dataset = trained.dataset_with(chosen, numbers, say)
  _check_images(dataset)
  ask = _asking(chosen)
  say(f"{chosen.name}: training a VAE of {len(dataset.train_ids)} images")
  parameters.quiet()
  flat = dataset.train.inputs[dataset.train_ids].reshape(
      len(dataset.train_ids), -1)
  params = vae.train(jnp.asarray(flat), seed=0, epochs=epochs)
  found = []
  for number in numbers:
    file = workdir / f"explained_{chosen.name}_{number}.png"
    found.append(_explain(chosen.name, ask, params, dataset.test, number, file))
    say(f"test image {number}, {found[-1].text}")
  if len(found) == 1:
    return found[0].picture
  file = workdir / f"explained_{chosen.name}.html"
  files.write(file, page.page(chosen.name, found))
  return file


def _explain(
    name: str, ask: Callable[[jax.Array], jax.Array], params: Any,
    examples: data_lib.Examples, number: int, file: pathlib.Path
) -> page.Explained:
  """A linear student at one image, and its picture."""
  image, label = examples.inputs[number], int(examples.label[number])
  x = jnp.asarray(image.reshape(-1), jnp.float32) / 255
  drawn = linear.neighbours(
      randomness.stream(jax.random.key(0), "explain", number), params, x,
      b=_REACH, number=_LEARNT + _JUDGED)
  logits = ask(drawn)
  p = jax.nn.softmax(logits[:_LEARNT] / _TEMPERATURE, axis=-1)
  student = linear.fit(drawn[:_LEARNT], p, temperature=_TEMPERATURE, l2=_L2,
                       steps=_STEPS)
  agreed = float(jnp.mean(jnp.argmax(student(drawn[_LEARNT:]), axis=-1)
                          == jnp.argmax(logits[_LEARNT:], axis=-1)))
  own = np.asarray(jax.nn.softmax(ask(x[None])[0]))
  _draw(image, label, np.asarray(drawn[:_SHOWN]), np.asarray(student.weights), own,
        file)
  return page.Explained(number, image, label, int(own.argmax()), (
      f"a {label}: {name} says {own.argmax()} with p = {own.max():.3f}; the linear "
      f"student agrees with it on {agreed:.0%} of {_JUDGED} other neighbours"),
                        file)


def _check_images(dataset: data_lib.Dataset) -> None:
  """Refuses data without uint8 images."""
  inputs = dataset.test.inputs
  if not preprocess.are_images(inputs) or inputs.dtype != np.uint8:
    raise UserError(f"data.name={dataset.name}: has no uint8 images, which are all "
                    "that can be explained")


def _asking(net: trained.Trained) -> Callable[[jax.Array], jax.Array]:
  """The net's logits of pixels `[B, pixels]` in [0, 1]."""
  return jax.jit(lambda x: net.logits(255 * x.reshape(-1, *net.shape)))


@canvas.styled
def _draw(
    image: np.ndarray, label: int, drawn: np.ndarray, weights: np.ndarray,
    p: np.ndarray, file: pathlib.Path
) -> bool:
  figure, axes = canvas.figure(1, _SHOWN + 3, (11.5, 1.5))
  panels = axes[0]
  for panel, pixels in zip(panels, [image, *(255 * drawn).round()]):
    canvas.picture(panel, pixels.reshape(image.shape).tolist())
  panels[0].set(title=f"a {label}")
  panels[1].set(title="neighbours")
  for panel, c in zip(panels[1 + _SHOWN:], np.argsort(-p)):
    # Of colours the sum: how much a place speaks for the class.
    shown = weights[:, c].reshape(image.shape).sum(axis=-1)
    most = max(float(np.abs(shown).max()), 1e-9)
    panel.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most)
    panel.set(title=f"for {c} ({p[c]:.2f})")
  for panel in panels:
    panel.set_axis_off()
  return canvas.save(figure, file)

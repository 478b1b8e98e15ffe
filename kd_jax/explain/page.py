"""A page of several explanations: a click on an image shows its own."""

import base64
from collections.abc import Sequence
import html
import pathlib
import string
from typing import NamedTuple

import numpy as np

from kd_jax.report import canvas

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem;
  padding: 0 1rem; background: #fff; color: #222 }
nav { display: flex; flex-wrap: wrap; gap: .4rem }
nav a { text-align: center; text-decoration: none; color: inherit;
  border: 2px solid #ddd; border-radius: 4px; padding: 2px }
nav a.wrong { border-color: #d55e00 }
nav a:hover, nav a:focus { border-color: #0072b2 }
nav img { width: 48px; height: 48px; image-rendering: pixelated; display: block }
section { display: none }
section:target, main:not(:has(section:target)) section:first-of-type {
  display: block }
section img { width: 100%; max-width: 1150px }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$about</p>
<nav aria-label="images">
$links
</nav>
$sections
</main>
</body>
</html>
""")


class Explained(NamedTuple):
  """What came out for one image.

  Attributes:
    number: Which test image.
    image: Its pixels, uint8 `[H, W, C]`.
    label: Its class.
    answer: The net's.
    text: A sentence on both, and on how well the student agrees with the net.
    picture: The file of its picture.
  """

  number: int
  image: np.ndarray
  label: int
  answer: int
  text: str
  picture: pathlib.Path


def page(net: str, found: Sequence[Explained]) -> str:
  """The page of some images, one file that loads nothing.

  Args:
    net: Who is explained.
    found: The images, in order.
  """
  links, sections = [], []
  for each in found:
    wrong = "" if each.label == each.answer else ' class="wrong"'
    says = html.escape(f"{net} says {each.answer}, it is a {each.label}")
    links.append(
        f'<a href="#image-{each.number}"{wrong} title="{says}">'
        f'<img src="{_data(canvas.png(each.image))}" alt="{each.number}: {says}">'
        f"{each.answer}</a>")
    sections.append(
        f'<section id="image-{each.number}"><h2>Test image {each.number}</h2>'
        f"<p>{html.escape(each.text)}</p>"
        f'<img src="{_data(each.picture.read_bytes())}" alt="The image, neighbours '
        'of it, and the weights of the linear student for the two likeliest '
        'classes"></section>')
  return _PAGE.substitute(
      title=html.escape(f"What {net} sees"), links="\n".join(links),
      about="Below each image stands the net's answer; an orange frame says that "
            "it is wrong. Pick an image: its linear student learnt from neighbours "
            "of it alone. Red pixels speak for a class, blue ones against it.",
      sections="\n".join(sections))


def _data(png: bytes) -> str:
  return "data:image/png;base64," + base64.b64encode(png).decode()

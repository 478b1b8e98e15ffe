"""The guide as pages: sphinx-build -W -b html docs runs/guide."""

import re

project = "kd_jax"
author = "the authors of kd_jax"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "kd_jax"
exclude_patterns = ["conformance"]
# Links to headings are those that GitHub makes, so that a page reads alike there.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]


def setup(app):
  """Files of the repository are no pages: links to them become their names."""
  def named(app, page, source):
    del app, page
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", _name, source[0])

  app.connect("source-read", named)


def _name(link):
  text, file = link[1], link[2]
  return f"`{file}`" if file in text or text in file else f"{text} (`{file}`)"

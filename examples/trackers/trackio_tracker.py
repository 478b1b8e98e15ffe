"""Runs in trackio: pip install trackio, and --config.tracker=THIS_FILE:track."""

import trackio


def track(config, workdir):
  plain = {key: value for key, value in config.items() if value is not None}
  trackio.init(project="kd_jax", name=workdir.name, config=plain)

  def log(kind, what):
    if kind == "epoch" and what["net"] != "sweep":  # Of lanes there are lists.
      trackio.log({f"{what['net']}/{key}": value for key, value in what.items()
                   if isinstance(value, float | int)})
    elif kind == "result":
      trackio.log({f"result/{what.get('net') or 'lane'}/test_errors":
                   what["test_errors"]})
    elif kind == "figure":
      trackio.log({what["name"]: trackio.Image(what["path"])})
    elif kind == "end":
      trackio.finish()
  return log

"""Runs in Weights & Biases: pip install wandb, --config.tracker=THIS_FILE:track."""

import wandb


def track(config, workdir):
  run = wandb.init(project="kd_jax", name=workdir.name, dir=workdir, config=config)

  def log(kind, what):
    if kind == "epoch" and what["net"] != "sweep":  # Of lanes there are lists.
      run.log({f"{what['net']}/{key}": value for key, value in what.items()
               if isinstance(value, float | int)})
    elif kind == "result":
      run.log({f"result/{what.get('net') or 'lane'}/test_errors":
               what["test_errors"]})
    elif kind == "figure":
      run.log({what["name"]: wandb.Image(str(what["path"]))})
    elif kind == "end":
      run.summary.update(what)
      run.finish()
  return log

"""Runs in MLflow: pip install mlflow, and --config.tracker=THIS_FILE:track."""

import mlflow


def track(config, workdir):
  mlflow.set_experiment("kd_jax")
  mlflow.start_run(run_name=workdir.name)
  mlflow.log_params({key: value for key, value in config.items() if value})

  def log(kind, what):
    if kind == "epoch" and what["net"] != "sweep":  # Of lanes there are lists.
      mlflow.log_metrics({f"{what['net']}/{key}": value for key, value in
                          what.items() if isinstance(value, float | int)},
                         step=what["step"])
    elif kind == "result":
      mlflow.log_dict(what, f"rows/{what['fingerprint'][:16]}.json")
    elif kind == "figure":
      mlflow.log_artifact(what["path"])
    elif kind == "end":
      mlflow.log_dict(what, "summary.json")
      mlflow.end_run()
  return log

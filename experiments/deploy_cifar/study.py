"""Which road from a large net makes the best small file, on CIFAR-10, in small?

That of `deploy_mnist`, with ResNets and int8 whose ranges are calibrated.
"""

from experiments.deploy_mnist import plan
from experiments.deploy_mnist import study as shared
from experiments.deploy_mnist.study import (
  CLAIM,
  COMMAND,
  OWN_TEACHERS,
  UNIT,
  conclude,
  pictures,
  status,
)
from experiments.protocol import Options, Stage

__all__ = [
    "CLAIM", "COMMAND", "DATA", "OWN_TEACHERS", "UNIT", "conclude", "pictures",
    "stages", "status"]
DATA = "CIFAR-10, 20,000 of its 50,000 images"


def stages(options: Options) -> list[Stage]:
  """One stage: each seed is a task."""
  return shared.stages(options, plan.CIFAR)

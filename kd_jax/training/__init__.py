"""Training one net, or many as lanes: step, segment, train loop, checkpoints."""

"""Frozen teachers: live nets, ensembles of them, and banks of their logits."""

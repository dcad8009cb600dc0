"""Faults injected for real; ``make torture`` runs them all."""

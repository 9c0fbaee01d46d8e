"""Violation of expectation: surprise, scores, suites (IntPhys, GRASP, InfLevel-lab, IntPhys 2) and simulated worlds."""

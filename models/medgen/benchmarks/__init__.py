"""Measurements that `medgen bench NAME` runs: each module has `run(quick) -> {"name", "passed", "details"}`."""

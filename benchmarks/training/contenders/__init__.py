"""Those who train: each module has a `train(job, gate)` that takes a job's steps, one after the other."""

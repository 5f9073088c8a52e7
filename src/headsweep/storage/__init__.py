"""The batched Optuna storage: trials in Optuna's tables, written in few transactions."""

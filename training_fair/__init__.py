"""What run_training.py is made of: its settings, its inputs and its records."""
